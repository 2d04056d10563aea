"""Says LogSoftmax so that small probabilities keep their logarithm."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.rewrite import all_nodes, replace_node, value_names
from ingot.passes.contract import Notes, Pass

SINCE = 13
"""Before, LogSoftmax was over all axes from `axis` on."""


class LowerLogSoftmax(Pass):
    """LogSoftmax(x) -> y - Log(ReduceSum(Exp(y))), y = x - ReduceMax(x)

    x of any shape and floating dtype, along `axis`   rounds otherwise in the last places
    TensorRT's parser takes the logarithm of a Softmax: -inf where a value is some 90 below the largest.
    Declines operator sets below 13.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "LogSoftmax" or node.domain != "":
                continue
            if (node.version or model.opset_imports.get("", 0)) < SINCE:
                notes.decline(node, "its operator set is too old")
                continue
            x, insert = node.inputs[0], Inserter(node, names)
            assert x is not None
            axes = insert.constant([node.attributes.get_int("axis", -1)])
            most = insert("ReduceMax", x, axes, dtype=x.dtype, keepdims=1)
            y = insert("Sub", x, most, dtype=x.dtype, shape=x.shape)
            powers = insert("Exp", y, dtype=x.dtype, shape=x.shape)
            total = insert("ReduceSum", powers, axes, dtype=x.dtype, keepdims=1)
            replace_node(node, ir.node("Sub", [y, insert("Log", total, dtype=x.dtype)]))
            notes.rewrites += 1
        return notes.rewrites > 0
