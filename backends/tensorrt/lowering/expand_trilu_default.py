"""Writes down what Trilu means by default, which TensorRT's parser takes for the other triangle."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import Notes, Pass


class ExpandTriluDefault(Pass):
    """Trilu(x, k or nothing) -> Trilu(x, k or left out, upper = 1)

    x [.., rows, columns] of any dtype   exact
    The parser reads a missing `upper` as 0, and stumbles over a `k` that is there without a name.
    Declines a Trilu that says both.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.op_type != "Trilu" or node.domain != "":
                continue
            named = len(node.inputs) < 2 or node.inputs[1] is not None
            if "upper" in node.attributes and named:
                notes.decline(node, "it says which triangle")
                continue
            if not named:
                node.resize_inputs(1)
            node.attributes.setdefault("upper", ir.AttrInt64("upper", 1))
            notes.rewrites += 1
        return notes.rewrites > 0
