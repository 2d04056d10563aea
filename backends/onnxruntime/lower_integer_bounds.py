"""Says Clip, Max and Min of int64 as comparisons, which ONNX Runtime computes in all of their bits."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import all_nodes, fresh_name, replace_node, value_names
from ingot.passes.contract import Notes, Pass

OPERATORS = frozenset(["Clip", "Max", "Min"])


class LowerIntegerBounds(Pass):
    """Max(a, b) -> Where(Less(a, b), b, a); Min(a, b) -> Where(Less(b, a), b, a); Clip(x, low, high) -> both

    a, b, x int64, of any shapes that broadcast; bounds of Clip may be absent   exact
    ONNX Runtime 1.31 gets 2**31 against a single number wrong: Max(2**31, 3) is 3, and Clip to 0..3 gives 0.
    Declines more than two inputs, and the attributes of operator sets before 11.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            first = node.inputs[0] if node.inputs else None
            if node.op_type not in OPERATORS or node.domain != "" or first is None or first.dtype != ir.DataType.INT64:
                continue
            if node.attributes:
                notes.decline(node, "its bounds are attributes")
            elif node.op_type != "Clip" and len(node.inputs) != 2:
                notes.decline(node, f"it has {len(node.inputs)} inputs")
            else:
                _lower(node, names)
                notes.rewrites += 1
        return notes.rewrites > 0


def _lower(node: ir.Node, names: set[str]) -> None:
    x = node.inputs[0]
    assert x is not None
    others = (*node.inputs[1:], None, None)
    above = others[0] if node.op_type in ("Clip", "Max") else None
    below = others[1] if node.op_type == "Clip" else others[0] if node.op_type == "Min" else None
    steps = [(bound, up) for bound, up in ((above, True), (below, False)) if bound is not None]
    if not steps:
        replace_node(node, ir.node("Identity", [x]))
        return
    for number, (bound, up) in enumerate(steps, 1):
        less = ir.node("Less", [x, bound] if up else [bound, x])
        choice = ir.node("Where", [less.outputs[0], bound, x])
        _place(node, less, ir.DataType.BOOL, names)
        if number == len(steps):
            replace_node(node, choice)
            return
        _place(node, choice, ir.DataType.INT64, names)
        x = choice.outputs[0]


def _place(before: ir.Node, made: ir.Node, dtype: ir.DataType, names: set[str]) -> None:
    made.outputs[0].name = fresh_name(f"{before.outputs[0].name}_bound", names)
    made.outputs[0].dtype = dtype
    copy_provenance(before, made)
    assert before.graph is not None
    before.graph.insert_before(before, made)
