"""Says the update of a linear cache as one operator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import add_constant, all_nodes, constant_array, fresh_name, remove_node, replace_node, value_names
from ingot.passes.contract import Notes, Pass
from ingot.passes.fuse_transposes import permutation

SINCE = 24
"""The operator set that TensorScatter came with."""


class ReplaceCacheScatter(Pass):
    """Transpose(ScatterND(Transpose(cache), start + Range(0, S, 1), u)) -> TensorScatter(cache, Transpose(u), start)

    cache [1, …, max, …], moved so that the axis of max is in front; u [S, 1, …] is moved back   exact
    torch.index_copy gives the long form, which moves the whole cache twice; runtimes write TensorScatter in place.
    Positions must be one start and those behind it, by dataflow; a start beyond max - S is an error in both.
    Declines positions of another kind, a batch that is not 1, an axis of the batch, a reduction, and graphs of an
    operator set below 24.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        if model.opset_imports.get("", 0) < SINCE:
            return False
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "ScatterND" or node.domain != "":
                continue
            match = _match(node)
            if isinstance(match, str):
                notes.decline(node, match)
                continue
            _rewrite(node, match, names)
            notes.rewrites += 1
        return notes.rewrites > 0


class _Match(NamedTuple):
    """`order` moves the cache for the scatter, and `back` its result to where the cache was."""

    cache: ir.Value
    update: ir.Value
    start: ir.Value
    order: tuple[int, ...]
    back: ir.Node


def _rewrite(node: ir.Node, match: _Match, names: set[str]) -> None:
    back, stem = match.back, match.back.outputs[0].name
    assert back.graph is not None
    target = add_constant(back.graph, fresh_name(f"{stem}_start_shape", names), ir.Tensor(np.array([1], np.int64)))
    start = ir.node("Reshape", [match.start, target])
    update = ir.node("Transpose", [match.update], {"perm": [match.order.index(i) for i in range(len(match.order))]})
    for made, source, what in ((start, match.start, "start"), (update, match.update, "update")):
        made.outputs[0].name, made.outputs[0].type = fresh_name(f"{stem}_{what}", names), source.type
        copy_provenance(node, made)
    start.outputs[0].shape = ir.Shape([1])
    if match.update.shape is not None:
        update.outputs[0].shape = ir.Shape([match.update.shape[match.order.index(i)] for i in range(len(match.order))])
    back.graph.insert_before(back, [start, update])
    inputs = [match.cache, update.outputs[0], start.outputs[0]]
    replace_node(back, ir.node("TensorScatter", inputs, {"axis": match.order[0], "mode": "linear"}))
    remove_node(node)


def _match(node: ir.Node) -> _Match | str:
    data, indices, update = node.inputs
    if node.attributes.get_string("reduction", "none") != "none":
        return "it adds up"
    scattered = node.outputs[0]
    readers = scattered.consumers()
    back = readers[0] if len(readers) == 1 and not scattered.is_graph_output() else None
    moved = _moved(data)
    if moved is None or update is None or back is None or not _is(back, "Transpose"):
        return "nothing moves an axis of its data to the front and back"
    cache, order = moved
    undone = permutation(back)
    if undone is None or [order[i] for i in undone] != list(range(len(order))):
        return "its result is not moved back to where its data were"
    if order[0] == 0:
        return "the axis in front is the batch"
    if cache.shape is None or cache.shape[0] != 1:
        return "its batch is not 1"
    start = _start(indices)
    if start is None:
        return "its positions are not a start and those behind it"
    return _Match(cache, update, start, order, back)


def _is(node: ir.Node | None, operator: str) -> bool:
    return node is not None and node.op_type == operator and node.domain == ""


def _moved(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a Transpose moves, and its order."""
    node = None if value is None else value.producer()
    if node is None or not _is(node, "Transpose") or node.inputs[0] is None:
        return None
    order = permutation(node)
    return None if order is None else (node.inputs[0], order)


def _start(indices: ir.Value | None) -> ir.Value | None:
    """Of indices [S, 1], start + 0, start + 1, …: the start, of one element."""
    if indices is None or indices.shape is None or len(indices.shape) != 2 or indices.shape[1] != 1:
        return None
    node = indices.producer()
    if node is None or not (_is(node, "Unsqueeze") or _is(node, "Reshape")) or node.inputs[0] is None:
        return None
    positions = node.inputs[0]
    if positions.shape is None or len(positions.shape) != 1:
        return None
    add = positions.producer()
    if add is None or not _is(add, "Add"):
        return None
    for start, steps in (add.inputs, add.inputs[::-1]):
        if start is not None and _one_element(start) and _counts_from_zero(steps):
            return start
    return None


def _one_element(value: ir.Value) -> bool:
    return value.shape is not None and all(size == 1 for size in value.shape)


def _counts_from_zero(value: ir.Value | None) -> bool:
    """Whether it is 0, 1, 2, …: as many as there are updates, for ScatterND takes no other number."""
    node = None if value is None else value.producer()
    if node is None or not _is(node, "Range"):
        return False
    first, step = constant_array(node.inputs[0]), constant_array(node.inputs[2])
    return first is not None and step is not None and first.item() == 0 and step.item() == 1
