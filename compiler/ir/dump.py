"""Writes a graph as text to read and to diff: one node a line, with shapes and module paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from ingot.ir.checks import subgraphs
from ingot.ir.provenance import module_path

# A constant of up to this many elements is written where it is read.
INLINE_ELEMENTS = 8

SHORT_DTYPES = {"float": "f32", "float16": "f16", "double": "f64", "bfloat16": "bf16"}


def readable(model: ir.Model) -> str:
    """The whole model as text; the same graph always gives the same text, and a changed node changes its line only."""
    lines = list(_graph(model.graph, "graph", ""))
    for function in model.functions.values():
        lines += _graph(function.graph, f"function {function.domain}::{function.name}", "")
    return "\n".join(lines) + "\n"


def _graph(graph: ir.Graph, title: str, indent: str) -> Iterator[str]:
    yield f"{indent}{title}({_list(map(_declared, graph.inputs))})"
    for name in sorted(graph.initializers):
        if not _inline(graph.initializers[name]):
            yield f"{indent}  weight {_declared(graph.initializers[name])}"
    for node in graph:
        yield indent + "  " + _node(node)
        for inner in subgraphs(node):
            yield from _graph(inner, "body", indent + "    ")
    yield f"{indent}  return {_list(_read(value) for value in graph.outputs)}"


def _node(node: ir.Node) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    attributes = [f"{attribute.name}={_attribute(attribute)}" for attribute in node.attributes.values()]
    text = f"{_list(map(_declared, node.outputs))} = {operator}({_list([*map(_read, node.inputs), *attributes])})"
    path = module_path(node)
    return f"{text}  # {path}" if path else text


def _attribute(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return f"{tensor.dtype.name.lower()}{tensor.shape}"
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "body"
    return str(attribute.value)


def _declared(value: ir.Value) -> str:
    dtype = "?" if value.dtype is None else value.dtype.name.lower()
    return f"%{value.name}: {SHORT_DTYPES.get(dtype, dtype)}{'[?]' if value.shape is None else value.shape}"


def _read(value: ir.Value | None) -> str:
    if value is None:
        return "none"
    if _inline(value) and value.const_value is not None:
        return "".join(str(value.const_value.numpy().tolist()).split())
    return f"%{value.name}"


def _inline(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and value.const_value.size <= INLINE_ELEMENTS


def _list(texts: Iterable[str]) -> str:
    return ", ".join(texts)
