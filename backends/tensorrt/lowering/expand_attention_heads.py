"""Splits the heads that Attention reads joined: TensorRT's attention knows one layout."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter, take_over
from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import all_nodes, fresh_name, value_names
from ingot.passes.contract import Notes, Pass

HEADS_FIRST = (0, 2, 1, 3)


class ExpandAttentionHeads(Pass):
    """Attention(q, k, v, …, heads in attributes) -> Reshape(Transpose(Attention(T(R(q)), T(R(k)), T(R(v)), …)))

    q [B, S, N·D], k, v [B, Skv, Nkv·D]; R splits the last axis, T swaps axes 1 and 2   result [B, S, N·D]   exact
    The inverse of replace_attention_layout. Declines when a last axis is not a number that the heads divide.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Attention" or node.domain != "" or _rank(node.inputs[0]) != 3:
                continue
            heads, kv_heads = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
            sizes = [_head_size(node.inputs[i], heads if i == 0 else kv_heads) for i in range(3)]
            if heads is None or kv_heads is None or any(size is None for size in sizes):
                notes.decline(node, "the size of its heads is not known")
                continue
            _rewrite(node, heads, kv_heads, [size or 0 for size in sizes], names)
            notes.rewrites += 1
        return notes.rewrites > 0


def _rewrite(node: ir.Node, heads: int, kv_heads: int, sizes: list[int], names: set[str]) -> None:
    insert = Inserter(node, names)
    for index, size in enumerate(sizes):
        value = node.inputs[index]
        assert value is not None
        assert value.shape is not None
        batch, length = value.shape[0], value.shape[1]
        count = heads if index == 0 else kv_heads
        target = insert.constant([0, 0, count, size])
        split = insert("Reshape", value, target, dtype=value.dtype, shape=[batch, length, count, size])
        moved = insert("Transpose", split, dtype=value.dtype, shape=[batch, count, length, size], perm=HEADS_FIRST)
        node.replace_input_with(index, moved)
    joined = node.outputs[0]
    query = node.inputs[0]
    assert query is not None
    assert query.shape is not None
    assert node.graph is not None
    batch, length = query.shape[0], query.shape[2]
    for name in ("q_num_heads", "kv_num_heads"):
        node.attributes.pop(name, None)
    join = ir.node("Reshape", [None, insert.constant([0, 0, heads * sizes[2]])])
    take_over(joined, join.outputs[0])
    joined.name = fresh_name(f"{join.outputs[0].name}_heads", names)
    joined.shape = ir.Shape([batch, heads, length, sizes[2]])
    move = ir.node("Transpose", [joined], {"perm": HEADS_FIRST})
    moved = move.outputs[0]
    moved.name, moved.type = fresh_name(f"{join.outputs[0].name}_transpose", names), joined.type
    moved.shape = ir.Shape([batch, length, heads, sizes[2]])
    join.replace_input_with(0, moved)
    for made in (move, join):
        copy_provenance(node, made)
    node.graph.insert_after(node, [move, join])


def _head_size(value: ir.Value | None, heads: int | None) -> int | None:
    if value is None or _rank(value) != 3 or not heads:
        return None
    assert value.shape is not None
    width = value.shape[2]
    return width // heads if isinstance(width, int) and width % heads == 0 else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)
