"""Makes one Reshape of a chain of operators that only rename axes."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.dims import input_symbols, reshape_target, same_shape
from ingot.ir.rewrite import all_nodes, remove_node, replace_node, replace_value
from ingot.passes.contract import Notes, Pass
from ingot.passes.fold_reshape_targets import TargetConstants

RESHAPING = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten"])


class FuseReshapes(Pass):
    """Reshape(Reshape(x)) -> Reshape(x), or x where that has the shape; Squeeze, Unsqueeze, Flatten likewise

    x and result of known ranks. exact
    Declines when no constant takes x to the result: two dims without a place, or a dim that may be zero.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        nonzero = input_symbols(model)
        constants = TargetConstants(model)
        for node in all_nodes(model):
            if not _reshapes(node) or node.inputs[0] is None:
                continue
            source: ir.Value = node.inputs[0]
            while (producer := source.producer()) is not None and _reshapes(producer) and producer.inputs[0]:
                source = producer.inputs[0]
            if source is node.inputs[0]:
                continue
            if same_shape(source, node.outputs[0]) and replace_value(node.outputs[0], source):
                remove_node(node)
                notes.rewrites += 1
                continue
            target = reshape_target(source, node.outputs[0], nonzero)
            if target is None:
                notes.decline(node, f"no constant takes {source.shape} to {node.outputs[0].shape}")
                continue
            replace_node(node, ir.Node("", "Reshape", [source, constants.get(target)]))
            notes.rewrites += 1
        return notes.rewrites > 0


def _reshapes(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in RESHAPING
