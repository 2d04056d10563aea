"""Takes the first of several largest values, for TensorRT does not say which it takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.rewrite import all_nodes, replace_node, value_names
from ingot.passes.contract import Notes, Pass

BOOL, INT32, INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64

SINCE, SIZES_SINCE, AXES_SINCE = 13, 15, 18
"""Before these, Unsqueeze had its axes as an attribute; Shape no start; a reduction its axes as an attribute."""

EXTREMES = {"ArgMax": "ReduceMax", "ArgMin": "ReduceMin"}


class LowerArgMax(Pass):
    """ArgMax(x) -> Cast(ReduceMin(Where(x == ReduceMax(x), places, size - 1))), and ArgMin

    x of any shape but a scalar, places 0, 1, … along `axis`   exact, but for rows with a NaN
    ONNX and PyTorch take the first of equal values, or the last where asked; the parser takes TensorRT's TopK, which
    promises no order among them, and the logits of a language model in 16 bits are often equal. No row gives a place
    outside of it, not even one of NaN alone.
    Declines operator sets below 13, or 15 where the axis is dynamic, and an x whose rank is not known.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type not in EXTREMES or node.domain != "":
                continue
            x, version = node.inputs[0], node.version or model.opset_imports.get("", 0)
            if x is None or x.shape is None or len(x.shape) == 0:
                notes.decline(node, "the number of its axes is not known")
            elif version < (SINCE if isinstance(x.shape[_axis(node, x)], int) else SIZES_SINCE):
                notes.decline(node, "its operator set is too old")
            else:
                replace_node(node, _place(Inserter(node, names), node, x, version))
                notes.rewrites += 1
        return notes.rewrites > 0


def _axis(node: ir.Node, x: ir.Value) -> int:
    return (node.attributes.get_int("axis", 0) or 0) % len(x.shape or ())


def _place(insert: Inserter, node: ir.Node, x: ir.Value, version: int) -> ir.Node:
    assert x.shape is not None
    axis = _axis(node, x)
    keep, last = node.attributes.get_int("keepdims", 1), node.attributes.get_int("select_last_index", 0)
    reduced = [1 if at == axis else size for at, size in enumerate(x.shape)]
    axes, attributes = ([insert.constant([axis])], {}) if version >= AXES_SINCE else ([], {"axes": [axis]})
    most = insert(EXTREMES[node.op_type], x, *axes, dtype=x.dtype, shape=reduced, keepdims=1, **attributes)
    found = insert("Equal", x, most, dtype=BOOL, shape=x.shape)
    places, end = _places(insert, x, axis)
    other = insert.constant(0, INT32) if last else end
    kept = insert("Where", found, places, other, dtype=INT32, shape=x.shape)
    shape = node.outputs[0].shape
    reduction = "ReduceMax" if last else "ReduceMin"
    chosen = insert(reduction, kept, *axes, dtype=INT32, shape=shape, keepdims=keep, **attributes)
    return ir.node("Cast", [chosen], {"to": int(INT64)})


def _places(insert: Inserter, x: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """0, 1, … along the axis, to be broadcast over the others, and the last of them."""
    assert x.shape is not None
    size, behind = x.shape[axis], [1] * (len(x.shape) - axis - 1)
    if isinstance(size, int):
        places = np.arange(size).reshape(size, *behind)
        return insert.constant(places, INT32), insert.constant(size - 1, INT32)
    count = insert("Cast", insert.size(x, axis), dtype=INT32, shape=[1], to=int(INT32))
    limit, zero = insert("Squeeze", count, dtype=INT32, shape=[]), insert.constant(0, INT32)
    line = insert("Range", zero, limit, insert.constant(1, INT32), dtype=INT32, shape=[size])
    end = insert("ReduceMax", line, dtype=INT32, shape=[], keepdims=0)
    if not behind:
        return line, end
    axes = insert.constant(list(range(1, len(behind) + 1)))
    return insert("Unsqueeze", line, axes, dtype=INT32, shape=[size, *behind]), end
