"""Attention as two products and a Softmax, where TensorRT's own lacks a part of it."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.attention_call import Call, axis, given, shape
from ingot.backends.tensorrt.lowering.attention_mask import FLOAT, combined_mask, zero_unseen
from ingot.backends.tensorrt.lowering.insert import take_over

KERNEL_HEAD_SIZE = 8
"""In 16 bits TensorRT's compiler fails on some other sizes (12, with a mask) instead of falling back."""


def reason_for_products(node: ir.Node) -> str | None:
    """What TensorRT's attention lacks of this one; None: nothing."""
    query = given(node, 0)
    precision = node.attributes.get_int("softmax_precision", 0)
    if node.attributes.get_float("softcap", 0.0) != 0.0:
        return "a soft cap"
    if len(node.outputs) > 3 and node.outputs[3].name:
        return "the scores as an output"
    if precision not in (0, None if query is None else query.dtype):
        return "a Softmax of its own precision"
    size = axis(query, 3)
    if size != axis(given(node, 2), 3):
        return "values of another head size"
    if query is not None and query.dtype != FLOAT and isinstance(size, int) and size % KERNEL_HEAD_SIZE:
        return "heads of a size that no kernel takes"
    return None


def products(call: Call) -> ir.Value:
    """The result; scores that the node gives as an output are taken over."""
    insert, node, dtype = call.insert, call.node, call.q.dtype or FLOAT
    k, v = _repeated(call, call.k), _repeated(call, call.v)
    batch, heads, size, columns = axis(k, 0), axis(k, 1), axis(k, 3), axis(k, 2)
    turned = insert("Transpose", k, dtype=dtype, shape=[batch, heads, size, columns], perm=(0, 1, 3, 2))
    sizes = [axis(call.q, 0), axis(call.q, 1), axis(call.q, 2), columns]
    scores = [insert("MatMul", call.q, turned, dtype=dtype, shape=sizes)]
    cap = node.attributes.get_float("softcap", 0.0)
    if cap:
        limit = insert.constant(cap, dtype)
        bent = insert("Tanh", insert("Div", scores[0], limit, dtype=dtype, shape=sizes), dtype=dtype, shape=sizes)
        scores.append(insert("Mul", bent, limit, dtype=dtype, shape=sizes))
    else:
        scores.append(scores[0])
    mask = combined_mask(call) if call.mask is not None or call.lengths is not None or call.causal else None
    scores.append(scores[1] if mask is None else insert("Add", scores[1], mask, dtype=dtype, shape=sizes))
    precision = ir.DataType(node.attributes.get_int("softmax_precision", 0) or int(dtype))
    weights = insert("Softmax", _cast(call, scores[2], precision), dtype=precision, shape=sizes, axis=-1)
    weights = _cast(call, weights, dtype)
    if mask is not None:
        weights = zero_unseen(call, weights, mask)
    scores.append(weights)
    if len(node.outputs) > 3 and node.outputs[3].name:
        shown = scores[node.attributes.get_int("qk_matmul_output_mode", 0)]
        take_over(node.outputs[3], insert("Identity", shown, dtype=dtype, shape=sizes))
    return insert("MatMul", weights, v, dtype=dtype, shape=[*sizes[:3], axis(v, 3)])


def _cast(call: Call, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return value if value.dtype == dtype else call.insert("Cast", value, dtype=dtype, shape=shape(value), to=int(dtype))


def _repeated(call: Call, value: ir.Value) -> ir.Value:
    """Each head of k or v as often as heads of q read it."""
    insert, heads = call.insert, axis(call.q, 1)
    batch, own, length, size = shape(value)
    assert isinstance(heads, int)
    assert isinstance(own, int)
    if heads == own:
        return value
    dtype, readers = value.dtype, heads // own
    alone = insert("Unsqueeze", value, insert.constant([2]), dtype=dtype, shape=[batch, own, 1, length, size])
    target = insert.constant([1, 1, readers, 1, 1])
    repeated = insert("Expand", alone, target, dtype=dtype, shape=[batch, own, readers, length, size])
    joined = insert.constant([0, heads, -1, size])
    return insert("Reshape", repeated, joined, dtype=dtype, shape=[batch, heads, length, size])
