"""Counts in integers, for TensorRT counts in nothing else between bounds that are computed."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.rewrite import all_nodes, constant_array, replace_node, value_names
from ingot.passes.contract import Notes, Pass

FLOAT, INT32, INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


class LowerFloatRange(Pass):
    """Range(start, Cast(n), step) -> Cast(Range(start, n, step))

    start, limit and step float32: whole constants, or cast from integers   result [R] float32   exact up to 2**24
    torch.arange(n, dtype=torch.float32) is the form on the left.
    Declines a bound or a step that may have a fraction.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Range" or node.domain != "" or node.outputs[0].dtype != FLOAT:
                continue
            if any(constant_array(value) is None and _integer(value) is None for value in node.inputs):
                notes.decline(node, "its bounds are computed in floats")
                continue
            if any(not _is_whole(value) for value in node.inputs):
                notes.decline(node, "a bound or its step has a fraction")
                continue
            insert = Inserter(node, names)
            whole = insert("Range", *(_whole(insert, value) for value in node.inputs), dtype=INT64)
            whole.shape = node.outputs[0].shape
            replace_node(node, ir.node("Cast", [whole], {"to": int(FLOAT)}))
            notes.rewrites += 1
        return notes.rewrites > 0


def _integer(value: ir.Value | None) -> ir.Value | None:
    """What a Cast makes the value of."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Cast" or node.domain != "" or node.inputs[0] is None:
        return None
    return node.inputs[0] if node.inputs[0].dtype in (INT32, INT64) else None


def _is_whole(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is None or (float(array.item()).is_integer() and abs(array.item()) < 2**24)


def _whole(insert: Inserter, value: ir.Value | None) -> ir.Value:
    array, integer = constant_array(value), _integer(value)
    if array is not None:
        return insert.constant(int(array.item()))
    assert integer is not None
    if integer.dtype == INT64:
        return integer
    return insert("Cast", integer, dtype=INT64, shape=integer.shape, to=int(INT64))
