"""Makes one Transpose of two in a row, or none."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.rewrite import all_nodes, remove_node, replace_node, replace_value
from ingot.passes.contract import Notes, Pass


class FuseTransposes(Pass):
    """Transpose(Transpose(x, p), q) -> Transpose(x, [p[i] for i in q]), or x where that keeps the order

    x of any rank. exact
    Declines when a permutation is implied and the rank not known.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.op_type != "Transpose" or node.domain != "" or node.inputs[0] is None:
                continue
            inner = node.inputs[0].producer()
            if inner is None or inner.op_type != "Transpose" or inner.domain != "":
                continue
            first, second = permutation(inner), permutation(node)
            if first is None or second is None:
                notes.decline(node, "its rank is not known")
                continue
            perm, source = [first[axis] for axis in second], inner.inputs[0]
            if perm == sorted(perm) and source is not None and replace_value(node.outputs[0], source):
                remove_node(node)
            else:
                replace_node(node, ir.Node("", "Transpose", [source], [ir.AttrInt64s("perm", perm)]))
            notes.rewrites += 1
        return notes.rewrites > 0


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The order of axes that a Transpose writes or implies; None when it is implied and the rank not known."""
    if "perm" in node.attributes:
        return tuple(node.attributes["perm"].as_ints())
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    return tuple(reversed(range(len(source.shape))))
