"""Drops a mask of attention that hides nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.dims import same_dim
from ingot.ir.rewrite import all_nodes, constant_array
from ingot.passes.contract import Notes, Pass

MOVES = frozenset(["Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"])
"""What puts the elements of its first input elsewhere, or there again, and adds none."""


class DropOpenMask(Pass):
    """Attention(q, k, v, true everywhere) -> Attention(q, k, v)

    mask bool of up to 4 axes, constant, or moved and repeated from a constant   exact
    transformers' vision models make such a mask, all of whose patches count.
    Declines a mask whose width is not the keys': what it does not reach is hidden.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.op_type != "Attention" or node.domain != "" or len(node.inputs) < 4:
                continue
            mask, key = node.inputs[3], node.inputs[1]
            if mask is None or mask.dtype != ir.DataType.BOOL or not _is_true(mask):
                continue
            if any(value is not None for value in node.inputs[4:5]):
                notes.decline(node, "its keys are wider by a past")
                continue
            if mask.shape is None or key is None or key.shape is None or len(mask.shape) == 0:
                notes.decline(node, "the shape of its mask or keys is not known")
                continue
            width, keys = mask.shape[-1], key.shape[len(key.shape) - 2]
            if width != 1 and not same_dim(width, keys):
                notes.decline(node, f"its mask is {width} wide and its keys {keys}")
                continue
            node.replace_input_with(3, None)
            notes.rewrites += 1
        return notes.rewrites > 0


def _is_true(value: ir.Value | None) -> bool:
    """Whether every element is provably true."""
    array = constant_array(value)
    if array is not None:
        return array.dtype == np.bool_ and bool(array.all())
    node = None if value is None else value.producer()
    return node is not None and node.domain == "" and node.op_type in MOVES and _is_true(node.inputs[0])
