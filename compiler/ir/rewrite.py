"""The edits that passes are made of: a value by another, a node by another, a node's result by a constant.

They keep what the pass contract asks for: the graph's interface, the names of replaced values, provenance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.ir.checks import subgraphs
from ingot.ir.provenance import copy_provenance


def all_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of the graph and of the bodies inside it, each before its readers; safe to edit while walking."""
    return list(model.graph.all_nodes())


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """The graph and the bodies inside it, outer before inner; function bodies are not among them."""
    return [model.graph, *model.graph.subgraphs()]


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer that no caller can override, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def constant_array(value: ir.Value | None, *, limit_bytes: int = 1 << 16) -> np.ndarray[Any, Any] | None:
    """The numbers behind a constant of at most `limit_bytes`, else None; strings are none either."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes > limit_bytes:
        return None
    return np.asarray(tensor.numpy())


def replace_value(old: ir.Value, new: ir.Value) -> bool:
    """Makes every reader of `old` read `new`; False, and nothing done, when the graph's outputs forbid it.

    A graph output keeps its name: `new` takes it over, which it can only when it is computed in the same graph
    and is not an output itself.
    """
    if old.is_graph_output():
        if new.producer() is None or new.graph is not old.graph or new.is_graph_output():
            return False
        name, old.name = old.name, None
        new.name, new.type, new.shape = name, old.type, old.shape
    elif new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    return True


def replace_node(node: ir.Node, replacement: ir.Node) -> None:
    """Puts `replacement` in the place of `node`: its outputs take over names, types and shapes, one for one."""
    graph = node.graph
    assert graph is not None
    copy_provenance(node, replacement)
    replacement.name = node.name
    graph.insert_before(node, replacement)
    for old, new in zip(node.outputs, replacement.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        name, old.name = old.name, None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name
    remove_node(node)


def replace_by_constant(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Turns what a node computes into an initializer of its graph, of the same name; the node stays for the caller
    to remove. False, and nothing done, for a graph output: an output must be computed."""
    graph = value.graph
    if graph is None or value.is_graph_output():
        return False
    name, value.name = value.name, None
    constant = add_constant(graph, str(name), tensor)
    value.replace_all_uses_with(constant)
    return True


def add_constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new initializer; `name` must be free in every scope that sees it."""
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def value_names(model: ir.Model) -> set[str]:
    """Every name that a value of the graph or of a body inside it has."""
    names: set[str] = set()
    for graph in all_graphs(model):
        names.update(str(value.name) for value in graph.inputs)
        names.update(graph.initializers)
    names.update(str(value.name) for node in all_nodes(model) for value in node.outputs)
    return names


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base_2`, `base_3`, … ; the name is then taken."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def remove_node(node: ir.Node) -> None:
    """Removes a node that nothing reads, and lets go of what the bodies inside it read from outside.

    Raises ValueError when something still reads it.
    """
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    for body in subgraphs(node):
        for inner in body.all_nodes():
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
