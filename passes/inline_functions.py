"""Puts the bodies of local functions in the place of their calls."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ingot.passes.contract import Notes, Pass


class InlineFunctions(Pass):
    """f(x), where the model brings f's body -> the body

    torch's table writes some operators as functions of its own. exact
    Declines functions of the domain `ingot`: a backend chooses between their body and a kernel.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for graph in [model.graph, *(function.graph for function in model.functions.values() if _kept(function))]:
            for node in graph.all_nodes():
                function = model.functions.get(node.op_identifier())
                if function is None:
                    continue
                if _kept(function):
                    notes.decline(node, "the backend chooses between this function and a kernel")
                else:
                    notes.rewrites += 1
        if notes.rewrites:
            InlinePass(criteria=lambda function: not _kept(function))(model)
        return notes.rewrites > 0


def _kept(function: ir.Function) -> bool:
    return function.domain == "ingot"
