"""Fills in the shapes and types that the exporter left out."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ingot.ir.checks import SMALL_TENSOR_BYTES
from ingot.passes.contract import Notes, Pass


class InferShapes(Pass):
    """a value of unknown shape or type -> the same value with both

    By onnx's own rules, over the dims that torch named; the passes after it decide by shapes. exact
    What is known already stays as the exporter wrote it, and so does all behind an operator that onnx does not know,
    or gets wrong: SequenceAt, to which it gives one named dim for pieces of different sizes.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
        _fill(model.graph, inferred.graph, notes)
        return notes.rewrites > 0


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model for onnx to read: large initializers are inputs, for protobuf ends at 2 GB, and what onnx gets wrong
    is of a domain that it does not know."""
    copy = model.clone()
    copy.opset_imports["unknown"] = 1
    for node in copy.graph.all_nodes():
        if node.domain == "" and node.op_type == "SequenceAt":
            node.domain = "unknown"
    for graph in [copy.graph, *copy.graph.subgraphs()]:
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= SMALL_TENSOR_BYTES:
                continue
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            del graph.initializers[name]
            if not value.is_graph_input():
                graph.inputs.append(value)
    return ir.to_proto(copy)


def _fill(graph: ir.Graph, inferred: onnx.GraphProto, notes: Notes) -> None:
    types = {info.name: info.type for info in [*inferred.value_info, *inferred.output]}
    for node, written in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            if value.name in types and _learn(value, types[value.name]):
                notes.rewrites += 1
        bodies = {attribute.name: attribute for attribute in written.attribute}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                _fill(attribute.as_graph(), bodies[attribute.name].g, notes)


def _learn(value: ir.Value, inferred: onnx.TypeProto) -> bool:
    changed = False
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(inferred)
        changed = value.type is not None
    shape = ir.serde.deserialize_type_proto_for_shape(inferred)
    if shape is None or (value.shape is not None and len(value.shape) != len(shape)):
        return changed
    known = value.shape or shape
    merged = [new if _unnamed(old) else old for old, new in zip(known, shape, strict=True)]
    if value.shape is None or any(_unnamed(old) and not _unnamed(new) for old, new in zip(known, merged, strict=True)):
        value.shape = ir.Shape(merged)
        return True
    return changed


def _unnamed(dim: int | ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and dim.value is None
