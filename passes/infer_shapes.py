"""Fills in the shapes and types that the exporter left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from ingot.ir.checks import SMALL_TENSOR_BYTES, subgraphs
from ingot.passes.contract import Notes, Pass

UNNAMED = "?"
"""A dim whose name begins so is one that nobody named: equal where the name is equal, and better known later, maybe."""

ONNX_UNNAMED = "unk__"

SIZES = (ir.DataType.INT32, ir.DataType.INT64)


class InferShapes(Pass):
    """a value of unknown shape or type -> the same value with both

    By onnx's own rules, over the dims that torch named; the passes after it decide by shapes. exact
    What is known already stays as the exporter wrote it, and so does all behind an operator that onnx does not know,
    or gets wrong: SequenceAt, to which it gives one named dim for pieces of different sizes. Only the unknown part of
    the graph is shown to onnx, and no weight.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        nodes = _unknown(model.graph, notes)
        if nodes:
            proto = onnx.ModelProto(ir_version=model.ir_version)
            proto.opset_import.add(version=model.opset_imports[""])
            _write(proto.graph, nodes, given=_given(model.graph, nodes))
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
            _learn_all(nodes, inferred.graph, {}, notes)
        return notes.rewrites > 0


def _unknown(graph: ir.Graph, notes: Notes) -> list[ir.Node]:
    """The nodes with something to learn about their results, and those that compute the sizes that these read."""
    wanted: set[ir.Node] = set()
    for node in graph:
        if node.op_type == "Constant":
            _learn_constant(node, notes)
        elif _infers(node) and _lacks(node):
            wanted.add(node)
    pending = list(wanted)
    while pending:
        for value in _read(pending.pop()):
            producer = value.producer()
            if producer is not None and producer not in wanted and producer.graph is graph and _is_sizes(value):
                wanted.add(producer)
                pending.append(producer)
    return [node for node in graph if node in wanted]


def _infers(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type != "SequenceAt"


def _lacks(node: ir.Node) -> bool:
    for value in node.outputs:
        if value.type is None or value.shape is None:
            return True
        if any(not isinstance(dim, int) and _unnamed(dim.value) for dim in value.shape):
            return True
    return any(_infers(inner) and _lacks(inner) for body in subgraphs(node) for inner in body)


def _is_sizes(value: ir.Value) -> bool:
    """Whether onnx can follow the numbers of this value to the shapes that they become."""
    return value.dtype in SIZES and value.shape is not None and len(value.shape) < 2


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node and the bodies inside it read."""
    yield from (value for value in node.inputs if value is not None)
    for body in subgraphs(node):
        for inner in body:
            yield from _read(inner)


def _given(graph: ir.Graph, nodes: Iterable[ir.Node]) -> list[ir.Value]:
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in _read(node))
    return [value for value in read if value.graph is graph and value not in made]


def _learn_constant(node: ir.Node, notes: Notes) -> None:
    value = node.outputs[0]
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None and (value.type is None or value.shape is None):
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        notes.rewrites += 1


def _write(proto: onnx.GraphProto, nodes: Iterable[ir.Node], *, given: Iterable[ir.Value]) -> None:
    """The nodes for onnx to read, and what is known of the values around them."""
    for value in given:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.dtype in SIZES and tensor.nbytes <= SMALL_TENSOR_BYTES:
            proto.initializer.add(
                name=value.name, data_type=tensor.dtype, dims=tensor.shape.numpy()
            ).raw_data = tensor.tobytes()
        else:
            _write_type(proto.value_info.add(), value)
    for node in nodes:
        written = proto.node.add(op_type=node.op_type, domain=node.domain)
        written.input.extend("" if value is None else value.name or "" for value in node.inputs)
        written.output.extend(value.name or "" for value in node.outputs)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                body = written.attribute.add(name=attribute.name, type=onnx.AttributeProto.GRAPH).g
                _write_body(body, attribute.as_graph())
            else:
                written.attribute.append(ir.to_proto(attribute))
        for value in node.outputs:
            if value.name and value.type is not None:
                _write_type(proto.value_info.add(), value)


def _write_body(proto: onnx.GraphProto, body: ir.Graph) -> None:
    proto.name = body.name or "body"
    for value in body.inputs:
        _write_type(proto.input.add(), value)
    _write(proto, body, given=body.initializers.values())
    for value in body.outputs:
        _write_type(proto.output.add(), value)


def _write_type(info: onnx.ValueInfoProto, value: ir.Value) -> None:
    info.name = value.name or ""
    known = value.const_value if value.is_initializer() and value.const_value is not None else value
    if known.dtype is not None and not isinstance(value.type, (ir.SequenceType, ir.OptionalType, ir.SparseTensorType)):
        info.type.tensor_type.elem_type = int(known.dtype)
        if known.shape is not None:
            shape = info.type.tensor_type.shape
            shape.SetInParent()
            for dim in known.shape:
                if isinstance(dim, int):
                    shape.dim.add(dim_value=dim)
                else:
                    shape.dim.add(dim_param=dim.value or "")
    elif value.type is not None:
        ir.serde.serialize_type_into(info.type, value.type)


def _learn_all(nodes: Iterable[ir.Node], inferred: onnx.GraphProto, names: dict[str, str], notes: Notes) -> None:
    types = {info.name: info.type for info in [*inferred.value_info, *inferred.output]}
    for node, written in zip(nodes, inferred.node, strict=True):
        for value in node.outputs:
            if value.name in types and _learn(value, types[value.name], names):
                notes.rewrites += 1
        bodies = {attribute.name: attribute for attribute in written.attribute}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                _learn_all(attribute.as_graph(), bodies[attribute.name].g, names, notes)


def _learn(value: ir.Value, inferred: onnx.TypeProto, names: dict[str, str]) -> bool:
    """Whether there was something to learn. `names` are ours for the dims that onnx found no name for."""
    changed = False
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(inferred)
        changed = value.type is not None
    if not inferred.HasField("tensor_type") or not inferred.tensor_type.HasField("shape"):
        return changed
    new = [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in inferred.tensor_type.shape.dim
    ]
    for axis, dim in enumerate(new):
        if isinstance(dim, str) and dim.startswith(ONNX_UNNAMED):
            new[axis] = names.setdefault(dim, f"{UNNAMED}{value.name}.{axis}")
    if value.shape is None:
        value.shape = ir.Shape(new)
        return True
    old = value.shape.dims
    if len(old) != len(new):
        return changed
    merged = [dim if _better(dim, known) else known for dim, known in zip(new, old, strict=True)]
    if tuple(merged) == old:
        return changed
    value.shape = ir.Shape(merged)
    return True


def _better(new: int | str | None, known: int | ir.SymbolicDim) -> bool:
    """A name is better than none, and the user's name or a number better than one of ours."""
    if isinstance(known, int) or new is None:
        return False
    return known.value is None or (_unnamed(known.value) and not _unnamed(new))


def _unnamed(dim: int | str | None) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(UNNAMED))
