"""Counts indices from the front, for TensorRT does not say what a negative one is."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.backends.tensorrt.operators.asked import never_negative
from ingot.ir.rewrite import all_nodes, value_names
from ingot.passes.contract import Notes, Pass

INDEXED = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1, "OneHot": 0}
"""Where each operator has its indices."""

BY_TUPLE = ("GatherND", "ScatterND")
"""Their indices' last axis runs over axes of the data."""

INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


class LowerNegativeIndices(Pass):
    """Gather(x, i) -> Gather(x, Where(i < 0, i + size, i)), and its kin, and Scatter's, and OneHot

    x of any shape, i int32 or int64, size that of the axis in x (OneHot: the depth)   exact
    TensorRT counts from the front alone where the size is dynamic, and in Scatter and OneHot.
    Declines indices that are provably not negative, Gather along axes of known size, and other dtypes of indices.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type not in INDEXED or node.domain != "":
                continue
            place = INDEXED[node.op_type]
            indices, data = node.inputs[place], node.inputs[0]
            if indices is None or data is None or never_negative(indices):
                continue
            if indices.dtype not in INTEGERS:
                notes.decline(node, f"its indices are {indices.dtype}")
            elif node.op_type.startswith("Gather") and _is_static(node, data, indices):
                notes.decline(node, "TensorRT knows the sizes of its axes")
            elif node.op_type in BY_TUPLE and not isinstance(_last(indices), int):
                notes.decline(node, "the number of axes that it indexes is not known")
            elif node.op_type not in (*BY_TUPLE, "OneHot") and data.shape is None:
                notes.decline(node, "the number of axes of its data is not known")
            else:
                insert = Inserter(node, names)
                node.replace_input_with(place, _from_the_front(insert, indices, _sizes(insert, node, data, indices)))
                notes.rewrites += 1
        return notes.rewrites > 0


def _last(indices: ir.Value) -> int | ir.SymbolicDim | None:
    return indices.shape[-1] if indices.shape is not None and len(indices.shape) else None


def _axes(node: ir.Node, indices: ir.Value) -> range | list[int] | None:
    if node.op_type not in BY_TUPLE:
        return [node.attributes.get_int("axis", 0) or 0]
    batch, count = node.attributes.get_int("batch_dims", 0) or 0, _last(indices)
    return range(batch, batch + count) if isinstance(count, int) else None


def _is_static(node: ir.Node, data: ir.Value, indices: ir.Value) -> bool:
    axes = _axes(node, indices)
    return data.shape is not None and axes is not None and all(isinstance(data.shape[axis], int) for axis in axes)


def _sizes(insert: Inserter, node: ir.Node, data: ir.Value, indices: ir.Value) -> ir.Value:
    """What a negative index counts from, in the indices' dtype: one number, or one for each of a tuple."""
    dtype = indices.dtype or ir.DataType.INT64
    if node.op_type == "OneHot":
        depth = node.inputs[1]
        assert depth is not None
        sizes = insert("Squeeze", depth, dtype=depth.dtype, shape=[])
    else:
        axes = _axes(node, indices)
        assert axes is not None
        first = axes[0] if node.op_type in BY_TUPLE else axes[0] % len(data.shape or ())
        count = len(axes)
        sizes = insert("Shape", data, dtype=ir.DataType.INT64, shape=[count], start=first, end=first + count)
        if node.op_type not in BY_TUPLE:
            # A scalar, or an index without axes would get one.
            sizes = insert("Squeeze", sizes, dtype=ir.DataType.INT64, shape=[])
    return sizes if sizes.dtype == dtype else insert("Cast", sizes, dtype=dtype, shape=sizes.shape, to=int(dtype))


def _from_the_front(insert: Inserter, indices: ir.Value, sizes: ir.Value) -> ir.Value:
    dtype, shape = indices.dtype or ir.DataType.INT64, indices.shape
    below = insert("Less", indices, insert.constant(0, dtype), dtype=ir.DataType.BOOL, shape=shape)
    counted = insert("Add", indices, sizes, dtype=dtype, shape=shape)
    return insert("Where", below, counted, indices, dtype=dtype, shape=shape)
