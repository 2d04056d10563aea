"""Says a normalization over all channels together so that TensorRT's parser does not take each alone."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.rewrite import all_nodes, replace_node, value_names
from ingot.passes.contract import Notes, Pass

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64

SINCE = 21
"""Before, scale and bias were of groups, not of channels."""


class LowerGroupNorm(Pass):
    """GroupNormalization(x, scale, bias), num_groups = 1 -> InstanceNormalization(x as [B, 1, -1]) · scale + bias

    x [B, C, ..], scale, bias [C]   rounds otherwise in the last places; 16 bits are computed in float32, as ONNX says
    The parser makes an instance normalization of it, in which every channel has a mean of its own.
    Declines more groups than one, another dtype of the computation, operator sets below 21, and unknown ranks.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "GroupNormalization" or node.domain != "":
                continue
            x = node.inputs[0]
            if node.attributes.get_int("num_groups", 0) != 1:
                notes.decline(node, "it has several groups")
            elif node.attributes.get_int("stash_type", 1) != int(FLOAT):
                notes.decline(node, "it is computed in another dtype than float32")
            elif (node.version or model.opset_imports.get("", 0)) < SINCE:
                notes.decline(node, "its operator set is too old")
            elif x is None or x.shape is None or len(x.shape) < 3:
                notes.decline(node, "the number of its axes is not known, or below 3")
            else:
                replace_node(node, _normalized(Inserter(node, names), node, x))
                notes.rewrites += 1
        return notes.rewrites > 0


def _normalized(insert: Inserter, node: ir.Node, x: ir.Value) -> ir.Node:
    assert x.shape is not None
    scale, bias = (_of_channels(insert, value, len(x.shape) - 2) for value in node.inputs[1:3])
    rows = insert("Reshape", _wide(insert, x), insert.constant([0, 1, -1]), dtype=FLOAT, shape=[x.shape[0], 1, None])
    one, zero = insert.constant([1.0], FLOAT), insert.constant([0.0], FLOAT)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normal = insert("InstanceNormalization", rows, one, zero, dtype=FLOAT, shape=rows.shape, epsilon=epsilon)
    sizes = insert("Shape", x, dtype=INT64, shape=[len(x.shape)])
    back = insert("Reshape", normal, sizes, dtype=FLOAT, shape=x.shape)
    scaled = insert("Mul", back, scale, dtype=FLOAT, shape=x.shape)
    if x.dtype == FLOAT:
        return ir.node("Add", [scaled, bias])
    return ir.node("Cast", [insert("Add", scaled, bias, dtype=FLOAT, shape=x.shape)], {"to": int(x.dtype or FLOAT)})


def _wide(insert: Inserter, value: ir.Value) -> ir.Value:
    return value if value.dtype == FLOAT else insert("Cast", value, dtype=FLOAT, shape=value.shape, to=int(FLOAT))


def _of_channels(insert: Inserter, value: ir.Value | None, behind: int) -> ir.Value:
    """[C] as [C, 1, ..]"""
    assert value is not None
    channels = None if value.shape is None else value.shape[0]
    axes = insert.constant(list(range(1, behind + 1)))
    return insert("Unsqueeze", _wide(insert, value), axes, dtype=FLOAT, shape=[channels, *[1] * behind])
