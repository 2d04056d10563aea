"""Replaces the target shapes that a graph computes at run time by constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.dims import expand_target, input_symbols, reshape_target
from ingot.ir.rewrite import add_constant, all_nodes, constant_array, fresh_name, value_names
from ingot.passes.contract import Notes, Pass


class FoldReshapeTargets(Pass):
    """Reshape(x, Concat(dims of x, …)) -> Reshape(x, [0, 0, 12, 32]), and Expand likewise

    x and result of known ranks. A 0 keeps a named dim in its place, one -1 stands for a dim with no place. exact
    Declines when two dims would need the -1, when a dim beside it may be zero, and when an Expand makes a named dim.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        nonzero = input_symbols(model)
        constants = TargetConstants(model)
        for node in all_nodes(model):
            if node.domain != "" or node.op_type not in ("Reshape", "Expand") or None in node.inputs[:2]:
                continue
            source, present = node.inputs[0], constant_array(node.inputs[1])
            assert source is not None
            if node.op_type == "Reshape":
                target = reshape_target(source, node.outputs[0], nonzero)
            else:
                target = expand_target(source, node.outputs[0])
            if target is None:
                if present is None:
                    notes.decline(node, f"no constant takes {source.shape} to {node.outputs[0].shape}")
                continue
            if (
                present is not None
                and tuple(present.tolist()) == target
                and not node.attributes.get_int("allowzero", 0)
            ):
                continue
            node.replace_input_with(1, constants.get(target))
            node.attributes.pop("allowzero", None)
            notes.rewrites += 1
        return notes.rewrites > 0


class TargetConstants:
    """Target shapes as initializers of the outermost graph, one for each distinct shape."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.names = value_names(model)
        self.made: dict[tuple[int, ...], ir.Value] = {}

    def get(self, target: tuple[int, ...]) -> ir.Value:
        if target not in self.made:
            name = fresh_name("_".join(["shape", *map(str, target)]), self.names)
            self.made[target] = add_constant(self.graph, name, ir.Tensor(np.array(target, dtype=np.int64)))
        return self.made[target]
