"""Removes operators that give back their input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.dims import same_shape
from ingot.ir.rewrite import all_nodes, constant_array, remove_node, replace_value
from ingot.passes.contract import Notes, Pass
from ingot.passes.fuse_transposes import permutation

# The number that changes nothing on the right side; on the left, too, where the operator commutes.
# Add and Sub for integers only: -0.0 + 0.0 is 0.0.
NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "And": True, "Or": False}
COMMUTES = frozenset(["Add", "Mul", "And", "Or"])
SHAPE_ONLY = frozenset(["Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten"])


class DropIdentity(Pass):
    """f(x), where f gives back x -> x

    Identity; Dropout in inference; Cast to its own dtype; Transpose that keeps the order; Reshape, Expand, Squeeze,
    Unsqueeze, Flatten, Slice to its own shape; Concat of one; x + 0 (integers), x · 1, x and true, x or false.
    x of any shape, the result of the same. exact
    Declines between an input and an output of the graph: both names stay.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            kept = _given_back(node)
            if kept is None or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                continue
            if replace_value(node.outputs[0], kept):
                remove_node(node)
                notes.rewrites += 1
            else:
                notes.decline(node, f"both {kept.name} and {node.outputs[0].name} are names the graph shows")
        return notes.rewrites > 0


def _given_back(node: ir.Node) -> ir.Value | None:
    """The input that the node's first output equals, if that is certain."""
    source = node.inputs[0] if node.inputs else None
    if node.domain != "" or source is None:
        return None
    result = node.outputs[0]
    if node.op_type == "Identity":
        return source
    if node.op_type == "Dropout":
        return source if _in_inference(node) else None
    if node.op_type == "Concat":
        return source if len(node.inputs) == 1 else None
    if node.op_type == "Cast":
        return source if source.dtype is not None and node.attributes.get_int("to", 0) == source.dtype else None
    if node.op_type == "Transpose":
        perm = permutation(node)
        return source if perm is not None and perm == tuple(range(len(perm))) else None
    if node.op_type in SHAPE_ONLY:
        return source if same_shape(source, result) else None
    if node.op_type == "Slice":
        return source if same_shape(source, result) and _forward(node) else None
    if node.op_type in NEUTRAL:
        return _beside_neutral(node)
    return None


def _in_inference(node: ir.Node) -> bool:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    training = constant_array(mode)
    return training is not None and not training.any()


def _forward(node: ir.Node) -> bool:
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = constant_array(node.inputs[4])
    return steps is not None and bool(np.all(steps == 1))


def _beside_neutral(node: ir.Node) -> ir.Value | None:
    left, right = node.inputs
    orders = [(left, right), (right, left)] if node.op_type in COMMUTES else [(left, right)]
    for kept, other in orders:
        array = constant_array(other)
        if kept is None or array is None or not same_shape(kept, node.outputs[0]):
            continue
        if array.dtype.kind not in "iub" and node.op_type in ("Add", "Sub"):
            continue
        if np.all(array == NEUTRAL[node.op_type]):
            return kept
    return None
