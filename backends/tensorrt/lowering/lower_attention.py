"""Says Attention in TensorRT's terms, so that its parser drops nothing of it."""

from __future__ import annotations

import math

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.attention_body import DOMAIN, OPERATOR, Causal, Variant, attention_body
from ingot.backends.tensorrt.lowering.attention_call import Call, axis, given, rank, shape
from ingot.backends.tensorrt.lowering.attention_mask import FLOAT, INT32, combined_mask, zero_unseen
from ingot.backends.tensorrt.lowering.attention_products import products, reason_for_products
from ingot.backends.tensorrt.lowering.insert import Inserter, take_over
from ingot.ir.dims import same_dim
from ingot.ir.rewrite import all_nodes, remove_node, value_names
from ingot.passes.contract import Notes, Pass


class LowerAttention(Pass):
    """Attention(q, k, v, mask, past, lengths) -> TRT_Attention(q · scale, k, v, mask or causal_kind, lengths)

    q [B, N, S, D], k, v [B, Nkv, Skv, D]   result [B, N, S, D]   rounds otherwise: the scale is put on q alone, not its
    root on q and k, and in q's dtype
    TensorRT's parser drops nonpad_kv_seqlen, takes no past, and its attention has a mask or a causal kind, not both. So
    a past is put in front of k and v; causal alone is upper_left, or lower_right where the keys behind a past are as
    many as the queries; lengths alone are TensorRT's; what is combined becomes one mask of all rows and columns. A row
    that may look at nothing is zero by ONNX, and TensorRT does not say: it is set. What TensorRT's attention lacks (a
    soft cap, scores as an output, a Softmax of its own precision, values of another head size) makes two products and
    a Softmax.
    Declines joined heads (expand_attention_heads), sizes of heads that are not known, and a window.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Attention" or node.domain != "":
                continue
            reason = _reason(node)
            if reason is not None:
                notes.decline(node, reason)
                continue
            call = _read(node, Inserter(node, names))
            result = products(call) if reason_for_products(node) else _fused(model, call)
            take_over(node.outputs[0], result)
            remove_node(node)
            notes.rewrites += 1
        return notes.rewrites > 0


def _reason(node: ir.Node) -> str | None:
    """Why an attention is left as it is."""
    if any(rank(value) != 4 for value in node.inputs[:3]):
        return "its heads are joined, or its shapes not known"
    if not all(isinstance(axis(value, index), int) for value in node.inputs[:3] for index in (1, 3)):
        return "the number or the size of its heads is not known"
    if any(node.attributes.get_int(f"{side}_window_size", -1) != -1 for side in ("left", "right")):
        return "TensorRT's attention has no window"
    mask = given(node, 3)
    if mask is None:
        return None
    if not 1 <= (rank(mask) or 0) <= 4:
        return "the shape of its mask is not known"
    width, keys, past = axis(mask, -1), axis(given(node, 1), 2), given(node, 4) is not None
    if (width == 1) if past else not (isinstance(width, int) or same_dim(width, keys)):
        return f"its mask is {width} wide and its keys {keys}{' behind a past' if past else ''}"
    return None


def _read(node: ir.Node, insert: Inserter) -> Call:
    """Scales q and puts the past in front."""
    q, k, v = node.inputs[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    past_k, past_v = given(node, 4), given(node, 5)
    if past_k is not None and past_v is not None:
        k, v = _joined(insert, past_k, k), _joined(insert, past_v, v)
    for index, present in ((1, k), (2, v)):
        if index < len(node.outputs) and node.outputs[index].name:
            take_over(node.outputs[index], insert("Identity", present, dtype=present.dtype, shape=shape(present)))
    size = axis(q, 3)
    assert isinstance(size, int)
    scale = node.attributes.get_float("scale", 1 / math.sqrt(size))
    if scale != 1.0:
        q = insert("Mul", q, insert.constant(scale, q.dtype or FLOAT), dtype=q.dtype, shape=shape(q))
    causal = node.attributes.get_int("is_causal", 0) == 1
    return Call(node, insert, q, k, v, given(node, 3), given(node, 6), causal, past_k)


def _joined(insert: Inserter, past: ir.Value, now: ir.Value) -> ir.Value:
    batch, heads, length, size = shape(now)
    before = None if past.shape is None else past.shape[2]
    total = before + length if isinstance(before, int) and isinstance(length, int) else None
    return insert("Concat", past, now, dtype=now.dtype, shape=[batch, heads, total, size], axis=2)


def _fused(model: ir.Model, call: Call) -> ir.Value:
    insert, mask, lengths = call.insert, None, None
    causal: Causal = "none"
    # As many new keys as queries, or the diagonal does not end in the corner.
    cornered = call.past is None or same_dim(axis(call.q, 2), axis(call.node.inputs[1], 2))
    if call.mask is not None or (call.causal and (call.lengths is not None or not cornered)):
        mask = combined_mask(call)
    elif call.causal:
        causal = "upper_left" if call.past is None else "lower_right"
    elif call.lengths is not None:
        lengths = call.lengths
        if lengths.dtype != INT32:
            lengths = insert("Cast", lengths, dtype=INT32, shape=[axis(call.q, 0)], to=int(INT32))
    variant = Variant(causal, mask is not None, lengths is not None)
    inputs = [call.q, call.k, call.v, mask, None, lengths]
    while inputs[-1] is None:
        inputs.pop()
    # Without decomposable, TensorRT refuses what it has no single kernel for: float32, large or odd head sizes.
    attributes: dict[str, int | str] = {"causal_kind": causal, "TRT_decomposable": 1}
    made = ir.node(OPERATOR, inputs, attributes, domain=DOMAIN, overload=variant.overload)
    result = insert.place(made, "attention", dtype=call.q.dtype, shape=shape(call.q))
    if made.op_identifier() not in model.functions:
        model.functions[made.op_identifier()] = attention_body(variant, model.opset_imports[""])
    model.opset_imports[DOMAIN] = 1
    return result if mask is None and lengths is None else zero_unseen(call, result, mask)
