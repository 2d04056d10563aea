"""Gives a vector a second axis where TensorRT's parser takes none, or takes the wrong one away."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.rewrite import all_nodes, replace_node, value_names
from ingot.passes.contract import Notes, Pass

SINCE = 13
"""Before, Softmax was over all axes from `axis` on, and the axes of Unsqueeze an attribute."""


class ExpandVectors(Pass):
    """Softmax(x) -> Squeeze(Softmax(x as [1, K])); MatMul(x, y) -> Squeeze(MatMul(x as [1, K], y))

    x [K], y [.., K, N] of at least 3 axes   exact
    The parser rejects the first, and squeezes another axis than it put into the second.
    Declines operator sets below 13, and leaves what has more axes.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.domain != "" or not _is_of_vector(node):
                continue
            if (node.version or model.opset_imports.get("", 0)) < SINCE:
                notes.decline(node, "its operator set is too old")
                continue
            x, insert = node.inputs[0], Inserter(node, names)
            assert x is not None
            assert x.shape is not None
            row = insert("Unsqueeze", x, insert.constant([0]), dtype=x.dtype, shape=[1, x.shape[0]])
            if node.op_type == "Softmax":
                made = insert("Softmax", row, dtype=x.dtype, shape=[1, x.shape[0]], axis=-1)
                added = 0
            else:
                y = node.inputs[1]
                assert y is not None
                assert y.shape is not None
                made = insert("MatMul", row, y, dtype=x.dtype, shape=[*y.shape[:-2], 1, y.shape[-1]])
                added = -2
            replace_node(node, ir.node("Squeeze", [made, insert.constant([added])]))
            notes.rewrites += 1
        return notes.rewrites > 0


def _is_of_vector(node: ir.Node) -> bool:
    ranks = [None if value is None or value.shape is None else len(value.shape) for value in node.inputs]
    if node.op_type == "Softmax":
        return ranks[0] == 1
    return node.op_type == "MatMul" and ranks[0] == 1 and (ranks[1] or 0) > 2
