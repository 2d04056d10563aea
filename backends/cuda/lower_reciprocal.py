"""Divides one by a bfloat16, for which ONNX Runtime has a CUDA kernel, and none for its reciprocal."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ingot.ir.rewrite import add_constant, all_nodes, fresh_name, replace_node, value_names
from ingot.passes.contract import Notes, Pass

BFLOAT16 = ir.DataType.BFLOAT16


class LowerReciprocal(Pass):
    """Reciprocal(x) -> Div(1, x)

    x bfloat16 of any shape   exact
    Declines other dtypes, which have a kernel.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Reciprocal" or node.domain != "":
                continue
            x = node.inputs[0]
            if x is None or x.dtype != BFLOAT16:
                notes.decline(node, "its dtype has a kernel")
                continue
            assert node.graph is not None
            name = fresh_name(f"{node.outputs[0].name}_one", names)
            one = add_constant(node.graph, name, ir.Tensor(np.array(1, ml_dtypes.bfloat16), name=name))
            replace_node(node, ir.node("Div", [one, x]))
            notes.rewrites += 1
        return notes.rewrites > 0
