"""Turns sizes that are known at build time, and computed at run time, into constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.ir.dims import static_shape
from ingot.ir.rewrite import all_nodes, constant_array, remove_node, replace_by_constant
from ingot.passes.contract import Notes, Pass

# A shape as it is computed on: integers, and ir.SymbolicDim where a size is known at run time only.
Sizes = np.ndarray[Any, Any]

UNCHANGED = ("Cast", "Identity")
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


class FoldStaticShapes(Pass):
    """Gather(Shape(x), i), Slice, Concat, … of sizes that are numbers -> a constant

    x [anything]   result: integers of any small shape   exact
    A shape is followed element by element through Shape, Size, Gather, Slice, Concat, Squeeze, Unsqueeze, Reshape,
    Cast and Identity, so that one static dim among dynamic ones is seen.
    Declines a result with a dynamic dim in it, and graph outputs.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        known: dict[ir.Value, Sizes] = {}
        for node in all_nodes(model):
            if node.domain != "" or len(node.outputs) != 1:
                continue
            value = node.outputs[0]
            if value.dtype is None or value.dtype not in INTEGERS:
                continue
            sizes = _sizes(node, known)
            if sizes is None:
                continue
            known[value] = sizes
            if not all(isinstance(size, (int, np.integer)) for size in sizes.flat):
                continue
            constant = ir.Tensor(sizes.astype(value.dtype.numpy()))
            if replace_by_constant(value, constant):
                remove_node(node)
                notes.rewrites += 1
            else:
                notes.decline(node, "it is an output of the graph")
        return notes.rewrites > 0


def _sizes(node: ir.Node, known: dict[ir.Value, Sizes]) -> Sizes | None:
    """What the node computes, when it computes on shapes of which some are dynamic; the rest is fold_constants'."""
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return None
    if node.op_type == "Shape" and source.shape is not None:
        return _array(source.shape.dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)])
    if node.op_type == "Size" and static_shape(source) is not None:
        return np.array(math.prod(static_shape(source) or ()), dtype=object)
    if node.op_type == "Concat":
        parts = [known.get(value) if value in known else constant_array(value) for value in node.inputs if value]
        present = [part for part in parts if part is not None and part.ndim == 1]
        if len(present) < len(parts) or not any(value in known for value in node.inputs if value):
            return None
        return np.concatenate([part.astype(object) for part in present])
    if source not in known:
        return None
    sizes = known[source]
    if node.op_type in UNCHANGED:
        return sizes
    if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
        shape = static_shape(node.outputs[0])
        return None if shape is None or math.prod(shape) != sizes.size else sizes.reshape(shape)
    rest = [constant_array(value) for value in node.inputs[1:] if value is not None]
    operands = [array for array in rest if array is not None]
    if sizes.ndim != 1 or not operands or len(operands) < len(rest):
        return None
    if node.op_type == "Gather":
        indices = operands[0]
        if not np.all((indices >= -sizes.size) & (indices < sizes.size)):
            return None
        taken = np.empty(indices.shape, dtype=object)
        taken[...] = sizes.take(indices)
        return taken
    if node.op_type == "Slice" and len(operands) in (2, 4) and operands[0].size == 1:
        start, stop = (int(array[0]) for array in operands[:2])
        step = int(operands[3][0]) if len(operands) == 4 else 1
        return sizes[start:stop] if step == 1 else None
    return None


def _array(dims: tuple[int | ir.SymbolicDim, ...]) -> Sizes:
    sizes = np.empty(len(dims), dtype=object)
    sizes[:] = dims
    return sizes
