"""Splits a tensor into tensors, not into a sequence that is taken apart again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import (
    add_constant,
    all_nodes,
    constant_array,
    fresh_name,
    remove_node,
    replace_node,
    replace_value,
    value_names,
)
from ingot.passes.contract import Notes, Pass


class ReplaceSplitToSequence(Pass):
    """SequenceAt(SplitToSequence(x, sizes), i) -> Split(x, sizes)[i]

    x of any shape, split along one axis: torch.split and torch.chunk as torch's table writes them. exact
    Declines when the sizes or an index are not constant, when the sequence is read as a whole, and when the split axis
    is squeezed away.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "SplitToSequence" or node.domain != "":
                continue
            sizes = _sizes(node)
            if sizes is None:
                notes.decline(node, "the sizes of the pieces are not known")
                continue
            readers = [(reader, _index(reader, len(sizes))) for reader in node.outputs[0].consumers()]
            if node.outputs[0].is_graph_output() or any(index is None for _, index in readers):
                notes.decline(node, "the sequence is read otherwise than at a constant index")
                continue
            graph = node.graph
            assert graph is not None
            name = fresh_name(f"{node.outputs[0].name}_sizes", names)
            constant = add_constant(model.graph, name, ir.Tensor(np.array(sizes, dtype=np.int64)))
            axis = ir.AttrInt64("axis", node.attributes.get_int("axis", 0))
            split = ir.Node("", "Split", [node.inputs[0], constant], [axis], num_outputs=len(sizes))
            copy_provenance(node, split)
            graph.insert_before(node, split)
            for i, piece in enumerate(split.outputs):
                piece.name = fresh_name(f"{node.outputs[0].name}_{i}", names)
            for reader, index in readers:
                assert index is not None
                _take(reader, split.outputs[index])
            remove_node(node)
            notes.rewrites += 1
        return notes.rewrites > 0


def _take(reader: ir.Node, piece: ir.Value) -> None:
    """Gives the readers of a SequenceAt the piece, and the first of them their name to the piece."""
    name = reader.outputs[0].name
    if piece.uses() or piece.is_graph_output():
        replace_node(reader, ir.Node("", "Identity", [piece]))
        return
    replace_value(reader.outputs[0], piece)
    remove_node(reader)
    piece.name = name


def _sizes(node: ir.Node) -> list[int] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    split = node.inputs[1] if len(node.inputs) > 1 else None
    array = constant_array(split)
    if split is None:
        if not node.attributes.get_int("keepdims", 1):
            return None
        array = np.array(1)
    if array is None or array.ndim == 1:
        return None if array is None else [int(size) for size in array]
    whole, size = source.shape[node.attributes.get_int("axis", 0)], int(array)
    if not isinstance(whole, int) or size < 1:
        return None
    return [min(size, whole - start) for start in range(0, whole, size)]


def _index(reader: ir.Node, count: int) -> int | None:
    if reader.op_type != "SequenceAt" or reader.domain != "":
        return None
    position = constant_array(reader.inputs[1])
    return int(position) % count if position is not None and -count <= int(position) < count else None
