"""Writes down what operators mean by default, where TensorRT's parser has a default of its own."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import Notes, Pass

DEFAULTS: Mapping[str, tuple[ir.Attr, ...]] = {
    "Selu": (
        ir.AttrFloat32("alpha", 1.67326319217681884765625),
        ir.AttrFloat32("gamma", 1.05070102214813232421875),
    ),
    "Trilu": (ir.AttrInt64("upper", 1),),
}
"""The parser takes alpha 1.6732 and gamma 1.0507, and the lower triangle."""


class ExpandDefaults(Pass):
    """Selu(x) -> Selu(x, alpha, gamma); Trilu(x, k or nothing) -> Trilu(x, k or left out, upper = 1)

    x of any shape and dtype   exact
    The parser stumbles also over a `k` that is there without a name.
    Declines an operator that says all.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.op_type not in DEFAULTS or node.domain != "":
                continue
            missing = [each for each in DEFAULTS[node.op_type] if each.name not in node.attributes]
            unnamed = len(node.inputs) > 1 and node.inputs[-1] is None
            if not missing and not unnamed:
                notes.decline(node, "it says all")
                continue
            if unnamed:
                node.resize_inputs(1)
            for attribute in missing:
                node.attributes.add(attribute)
            notes.rewrites += 1
        return notes.rewrites > 0
