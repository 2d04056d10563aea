"""Writes the dtype that CastLike would look up."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.rewrite import all_nodes, replace_node
from ingot.passes.contract import Notes, Pass


class ReplaceCastLike(Pass):
    """CastLike(x, y) -> Cast(x, to=dtype of y)

    x of any shape; y is then read no more, so that a cast constant can be folded. exact
    Declines when the dtype of y is not known.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.op_type != "CastLike" or node.domain != "":
                continue
            like = node.inputs[1]
            if like is None or like.dtype is None:
                notes.decline(node, "the dtype to cast to is not known")
                continue
            attributes = [attribute for attribute in node.attributes.values() if attribute.name == "saturate"]
            cast = ir.Node("", "Cast", [node.inputs[0]], [ir.AttrInt64("to", int(like.dtype)), *attributes])
            replace_node(node, cast)
            notes.rewrites += 1
        return notes.rewrites > 0
