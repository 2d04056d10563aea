"""Holds a graph to its rules after every pass, and tells cheaply whether a pass changed it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.errors import PassError
from ingot.ir.provenance import where

# Up to here a fingerprint reads the bytes of a tensor too, for an array can be written to.
SMALL_TENSOR_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Equal when two states of one model have the same structure. Two models never compare: values and tensors go by
    identity. The tensors are held, for an identity is only good while its object lives; a value that is gone has no
    reader left to be wrong about."""

    structure: tuple[int, ...] = field(repr=False)
    tensors: tuple[ir.TensorProtocol, ...] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Interface:
    """What no pass may change: inputs and outputs by name, type and order, input shapes, and the bodies of the
    functions that are called. A type or shape that was not known may become known."""

    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]
    functions: frozenset[ir.OperatorIdentifier]

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        return cls(
            tuple((str(value.name), str(value.type), str(value.shape)) for value in model.graph.inputs),
            tuple((str(value.name), str(value.type)) for value in model.graph.outputs),
            frozenset(model.functions),
        )


def fingerprint(model: ir.Model) -> Fingerprint:
    """Operators, domains, attributes, edges, value names, shapes and dtypes, and the initializers by name, shape, dtype
    and data. Metadata is left out. Linear in the nodes: about 5 µs each, and no weight is read."""
    structure: list[int] = []
    tensors: list[ir.TensorProtocol] = []
    structure.append(hash(tuple(sorted(model.opset_imports.items()))))
    _add_graph(model.graph, structure, tensors)
    for identifier, function in model.functions.items():
        structure.append(hash((identifier, *sorted(function.opset_imports.items()))))
        _add_graph(function.graph, structure, tensors)
    return Fingerprint(tuple(structure), tuple(tensors))


def check_model(model: ir.Model, *, after: str, interface: Interface | None = None) -> None:
    """Raises PassError, naming the pass `after`, when the graph breaks a rule.

    A node reads only graph inputs, initializers and values produced before it, here or in a graph around it; no name
    stands for two values in one scope; outputs are produced, each once; every domain is imported; and, against the
    `interface` before the pass, inputs and outputs are what they were and no function lost its body while called.
    """
    if interface is not None:
        now = Interface.of(model)
        for kind, was, became in (
            ("inputs", interface.inputs, now.inputs),
            ("outputs", interface.outputs, now.outputs),
        ):
            if not _kept(was, became):
                _broken(after, f"changed the graph's {kind} from {_listed(was)} to {_listed(became)}")
    lost = interface.functions - set(model.functions) if interface is not None else frozenset()
    bodies = [(model.graph, model.opset_imports)]
    bodies += [(function.graph, function.opset_imports) for function in model.functions.values()]
    for graph, imports in bodies:
        _GraphCheck(after, imports, lost).graph(graph)


def _broken(after: str, what: str, node: ir.Node | None = None) -> None:
    raise PassError(
        f"pass {after} broke the graph: it {what}",
        where=None if node is None else where(node),
        fix="print ingot.ir.dump.readable(model) before and after the pass, and correct the pass",
    )


def _kept(was: tuple[tuple[str, ...], ...], became: tuple[tuple[str, ...], ...]) -> bool:
    facts = [pair for a, b in zip(was, became, strict=False) for pair in zip(a, b, strict=True)]
    return len(was) == len(became) and all(old in (new, "None") for old, new in facts)


def _listed(values: tuple[tuple[str, ...], ...]) -> str:
    return ", ".join(" ".join(facts) for facts in values) or "none"


class _GraphCheck:
    """One walk over a graph and the graphs inside it, with what is in scope."""

    def __init__(self, after: str, imports: dict[str, int], lost: frozenset[ir.OperatorIdentifier]) -> None:
        self.after = after
        self.imports = imports
        self.lost = lost
        self.scope: set[ir.Value] = set()
        self.names: set[str] = set()

    def graph(self, graph: ir.Graph) -> None:
        own: list[ir.Value] = []
        given = {id(value): value for value in [*graph.inputs, *graph.initializers.values()]}
        for value in given.values():
            self.define(value, own, None)
        for value in graph.initializers.values():
            if value.const_value is None:
                _broken(self.after, f"left the initializer {value.name} without data")
        for node in graph:
            self.node(node)
            for value in node.outputs:
                if value.name != "":
                    self.define(value, own, node)
        inside = set(own)
        outputs = list(graph.outputs)
        for value in outputs:
            if value not in inside:
                _broken(self.after, f"left nothing that produces the output {value.name} of graph {graph.name}")
        if len(set(outputs)) < len(outputs):
            _broken(self.after, f"made two outputs of graph {graph.name} one value")
        self.scope -= inside
        self.names -= {value.name for value in own if value.name is not None}

    def define(self, value: ir.Value, own: list[ir.Value], node: ir.Node | None) -> None:
        if value.name is None:
            _broken(self.after, "left a value without a name", node)
            return
        if value.name in self.names:
            _broken(self.after, f"gave the name {value.name} to two values", node)
        self.names.add(value.name)
        self.scope.add(value)
        own.append(value)

    def node(self, node: ir.Node) -> None:
        if node.domain not in self.imports:
            _broken(self.after, f"uses the domain '{node.domain}' without importing it", node)
        if node.op_identifier() in self.lost:
            _broken(self.after, f"removed the body of the function {node.domain}::{node.op_type}, still called", node)
        for value in node.inputs:
            if value is not None and value not in self.scope:
                _broken(self.after, f"reads {value.name}, which nothing before it produces", node)
        for graph in subgraphs(node):
            self.graph(graph)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs held by a node's attributes: the bodies of If, Loop and Scan."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


# A structure is one number for each node: tuples would be kept, and the garbage collector visit each. A value is hashed
# by its identity. By name it would not do: a reader of a value that was replaced by one of the same name reads nothing.


def _add_graph(graph: ir.Graph, structure: list[int], tensors: list[ir.TensorProtocol]) -> None:
    structure.append(hash(_values(graph.inputs)))
    # Their order means nothing, and reading shapes with onnx reshuffles it.
    for _, value in sorted(graph.initializers.items()):
        structure.append(hash((value, *_described(value), _tensor(value.const_value, tensors))))
    for node in graph:
        attributes = [_attribute(attribute, structure, tensors) for attribute in node.attributes.values()]
        head = (node.domain, node.op_type, node.overload)
        structure.append(hash((head, node.inputs, _values(node.outputs), *attributes)))
    structure.append(hash(tuple(graph.outputs)))


def _values(values: Iterable[ir.Value]) -> tuple[object, ...]:
    return tuple([(value, *_described(value)) for value in values])


def _described(value: ir.Value) -> tuple[object, ...]:
    kind, shape = value.type, value.shape
    dtype = kind.dtype if type(kind) is ir.TensorType else str(kind)
    return value.name, dtype, None if shape is None else shape.dims


def _attribute(attribute: ir.Attr, structure: list[int], tensors: list[ir.TensorProtocol]) -> tuple[object, ...]:
    kind, value = attribute.type, attribute.value
    if attribute.is_ref():
        value = attribute.ref_attr_name
    elif kind == ir.AttributeType.TENSOR:
        value = _tensor(attribute.as_tensor(), tensors)
    elif kind == ir.AttributeType.TENSORS:
        value = tuple(_tensor(tensor, tensors) for tensor in attribute.as_tensors())
    elif kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        graphs = [attribute.as_graph()] if kind == ir.AttributeType.GRAPH else attribute.as_graphs()
        value = len(graphs)
        for graph in graphs:
            _add_graph(graph, structure, tensors)
    else:
        # As text -1 and -2 hash apart, and 0.0 is not -0.0.
        value = repr(value)
    return attribute.name, kind, value


def _tensor(tensor: ir.TensorProtocol | None, tensors: list[ir.TensorProtocol]) -> object:
    if tensor is None:
        return None
    tensors.append(tensor)
    # The other kinds cannot be written to, and some are not made yet.
    if type(tensor) is ir.Tensor:
        array = tensor.numpy()
        if array.nbytes <= SMALL_TENSOR_BYTES:
            return id(tensor), array.tobytes()
    return id(tensor)
