"""One mask of all that an attention may look at: the model's own, what comes later, what is padding."""

from __future__ import annotations

import math

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.attention_call import Call, axis, broadcast, shape
from ingot.ir.dims import same_dim

BOOL, INT32, INT64, FLOAT = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT


def combined_mask(call: Call) -> ir.Value:
    """[B or 1, N or 1, S, Skv] in the dtype of the queries, to be added: -inf where a key does not count.

    TensorRT takes booleans as well, but its compiler fails on two float16 layers that share such a mask.
    """
    insert, parts, added = call.insert, [], None
    if call.causal:
        parts.append(_causal(call))
    if call.lengths is not None:
        parts.append(_within_lengths(call))
    if call.mask is not None:
        mask = _widened(call, call.mask)
        if mask.dtype == BOOL:
            parts.append(mask)
        else:
            added = mask
    dtype = call.q.dtype or FLOAT
    if parts:
        allowed = parts[0]
        for part in parts[1:]:
            allowed = insert("And", allowed, part, dtype=BOOL, shape=broadcast(allowed, part))
        kept = insert.constant(0, dtype) if added is None else added
        never = insert.constant(-math.inf, dtype)
        added = insert("Where", allowed, kept, never, dtype=dtype, shape=broadcast(allowed, kept))
    assert added is not None
    return _full(call, added)


def zero_unseen(call: Call, result: ir.Value, mask: ir.Value | None) -> ir.Value:
    """The result with zeros in the rows that may look at nothing, by a full mask or the lengths."""
    insert = call.insert
    if mask is not None:
        seen = _any(call, mask)
    else:
        seen = insert("Greater", _tall(call), insert.constant(0), dtype=BOOL, shape=[axis(call.q, 0), 1, 1, 1])
    nothing = insert.constant(0, result.dtype or FLOAT)
    return insert("Where", seen, result, nothing, dtype=result.dtype, shape=shape(result))


def _positions(call: Call, value: ir.Value) -> ir.Value:
    """0, 1, … along axis 2 of `value`."""
    insert, length = call.insert, axis(value, 2)
    if isinstance(length, int):
        return insert.constant(list(range(length)))
    count = insert("Squeeze", insert.size(value, 2), dtype=INT64, shape=[])
    return insert("Range", insert.constant(0), count, insert.constant(1), dtype=INT64, shape=[length])


def _causal(call: Call) -> ir.Value:
    """Key j for query i where j <= i + offset: 0, or the length of the past, or lengths[b] - S within lengths."""
    insert = call.insert
    last = insert("Unsqueeze", _positions(call, call.q), insert.constant([1]), dtype=INT64, shape=[axis(call.q, 2), 1])
    offset = None
    if call.past is not None:
        offset = insert.size(call.past, 2)
    elif call.lengths is not None:
        counted = _tall(call)
        offset = insert("Sub", counted, insert.size(call.q, 2), dtype=INT64, shape=shape(counted))
    if offset is not None:
        last = insert("Add", last, offset, dtype=INT64, shape=broadcast(last, offset))
    sizes = [*shape(last)[:-1], axis(call.k, 2)]
    return insert("LessOrEqual", _positions(call, call.k), last, dtype=BOOL, shape=sizes)


def _tall(call: Call) -> ir.Value:
    """The lengths as [B, 1, 1, 1]."""
    assert call.lengths is not None
    lengths, insert = call.lengths, call.insert
    if lengths.dtype != INT64:
        lengths = insert("Cast", lengths, dtype=INT64, shape=[axis(call.q, 0)], to=int(INT64))
    sizes = [axis(call.q, 0), 1, 1, 1]
    return insert("Reshape", lengths, insert.constant([-1, 1, 1, 1]), dtype=INT64, shape=sizes)


def _within_lengths(call: Call) -> ir.Value:
    sizes = [axis(call.q, 0), 1, 1, axis(call.k, 2)]
    return call.insert("Less", _positions(call, call.k), _tall(call), dtype=BOOL, shape=sizes)


def _widened(call: Call, mask: ir.Value) -> ir.Value:
    """The mask at the keys' width: what it does not reach is not looked at. One of width 1 is for all keys."""
    insert, width, wanted = call.insert, axis(mask, -1), axis(call.k, 2)
    if width == 1 or same_dim(width, wanted):
        return mask
    missing = insert("Sub", insert.size(call.k, 2), insert.size(mask, -1), dtype=INT64, shape=[1])
    axes = len(shape(mask))
    before, others = insert.constant([0] * axes), insert.constant([0] * (axes - 1))
    ends = [before, missing] if axes == 1 else [before, others, missing]
    pads = insert("Concat", *ends, dtype=INT64, shape=[2 * axes], axis=0)
    # In numbers and back: TensorRT pads no booleans.
    numbers, dtype = (mask, mask.dtype or FLOAT)
    if dtype == BOOL:
        numbers = insert("Cast", mask, dtype=INT32, shape=shape(mask), to=int(INT32))
    fill = insert.constant(0, INT32) if dtype == BOOL else insert.constant(-math.inf, dtype)
    sizes = [*shape(mask)[:-1], wanted]
    padded = insert("Pad", numbers, pads, fill, dtype=numbers.dtype, shape=sizes, mode="constant")
    return insert("Cast", padded, dtype=BOOL, shape=sizes, to=int(BOOL)) if dtype == BOOL else padded


def _full(call: Call, mask: ir.Value) -> ir.Value:
    """Four axes, the last two of the queries' and the keys' lengths."""
    insert, rows, columns = call.insert, axis(call.q, 2), axis(call.k, 2)
    if (lacking := 4 - len(shape(mask))) > 0:
        axes = insert.constant(list(range(lacking)))
        mask = insert("Unsqueeze", mask, axes, dtype=mask.dtype, shape=[*[1] * lacking, *shape(mask)])
    if same_dim(axis(mask, 2), rows) and same_dim(axis(mask, 3), columns):
        return mask
    ones = insert.constant([1, 1])
    target = insert("Concat", ones, insert.size(call.q, 2), insert.size(call.k, 2), dtype=INT64, shape=[4], axis=0)
    return insert("Expand", mask, target, dtype=mask.dtype, shape=[*shape(mask)[:2], rows, columns])


def _any(call: Call, mask: ir.Value) -> ir.Value:
    """Whether a row of a full mask leaves a key, [.., .., S, 1]."""
    insert, dtype = call.insert, mask.dtype or FLOAT
    sizes = [*shape(mask)[:-1], 1]
    most = insert("ReduceMax", mask, insert.constant([-1]), dtype=dtype, shape=sizes, keepdims=1)
    return insert("Greater", most, insert.constant(-math.inf, dtype), dtype=BOOL, shape=sizes)
