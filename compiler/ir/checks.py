"""Holds a graph to its rules after every pass, and tells cheaply whether a pass changed it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.errors import PassError
from ingot.ir.provenance import where

# Up to here the digest reads the bytes of a tensor; above, a tensor is told from another by being another object.
SMALL_TENSOR_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Equal when two states of one model have the same structure. Two models never compare: large weights go by
    identity, which is why the tensors are held: an identity is only good while its object lives."""

    digest: str
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
    """Digest of operators, domains, attributes, edges, value names, shapes and dtypes, and of the initializers by
    name, shape, dtype and data. Metadata is left out. Linear in the nodes: about 15 µs each."""
    tensors: list[ir.TensorProtocol] = []
    digest = hashlib.sha256()
    for line in _model_lines(model, tensors):
        digest.update(line.encode())
        digest.update(b"\n")
    return Fingerprint(digest.hexdigest(), tuple(tensors))


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


def _model_lines(model: ir.Model, tensors: list[ir.TensorProtocol]) -> Iterator[str]:
    yield str(sorted(model.opset_imports.items()))
    yield from _graph_lines(model.graph, tensors)
    for identifier, function in model.functions.items():
        yield f"function {identifier} {sorted(function.opset_imports.items())}"
        yield from _graph_lines(function.graph, tensors)


def _graph_lines(graph: ir.Graph, tensors: list[ir.TensorProtocol]) -> Iterator[str]:
    yield "in " + _values(graph.inputs, _described)
    # Their order means nothing, and reading shapes with onnx reshuffles it.
    for name in sorted(graph.initializers):
        value = graph.initializers[name]
        yield f"init {_described(value)} {_tensor(value.const_value, tensors)}"
    for node in graph:
        yield f"{node.domain}::{node.op_type}:{node.overload}({_values(node.inputs, _named)})"
        yield "= " + _values(node.outputs, _described)
        for attribute in node.attributes.values():
            yield from _attribute_lines(attribute, tensors)
    yield "out " + _values(graph.outputs, _named)


def _attribute_lines(attribute: ir.Attr, tensors: list[ir.TensorProtocol]) -> Iterator[str]:
    if attribute.is_ref():
        yield f"{attribute.name}=@{attribute.ref_attr_name}"
    elif attribute.type == ir.AttributeType.TENSOR:
        yield f"{attribute.name}={_tensor(attribute.as_tensor(), tensors)}"
    elif attribute.type == ir.AttributeType.TENSORS:
        yield f"{attribute.name}={[_tensor(tensor, tensors) for tensor in attribute.as_tensors()]}"
    elif attribute.type == ir.AttributeType.GRAPH:
        yield f"{attribute.name}=graph"
        yield from _graph_lines(attribute.as_graph(), tensors)
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            yield f"{attribute.name}=graphs"
            yield from _graph_lines(graph, tensors)
    else:
        yield f"{attribute.name}={attribute.value!r}"


def _values(values: Iterable[ir.Value | None], text: Callable[[ir.Value], str]) -> str:
    return ", ".join("-" if value is None else text(value) for value in values)


def _named(value: ir.Value) -> str:
    return repr(value.name)


def _described(value: ir.Value) -> str:
    return f"{value.name!r} {value.type} {value.shape}"


def _tensor(tensor: ir.TensorProtocol | None, tensors: list[ir.TensorProtocol]) -> str:
    if tensor is None:
        return "-"
    if tensor.nbytes <= SMALL_TENSOR_BYTES and not isinstance(tensor, (ir.LazyTensor, ir.StringTensor)):
        return f"{tensor.dtype} {tensor.shape} {tensor.tobytes().hex()}"
    tensors.append(tensor)
    return f"{tensor.dtype} {tensor.shape} #{id(tensor)}"
