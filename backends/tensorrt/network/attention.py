"""What TensorRT's layers for transformers compute: attention, the update of a KV cache, rotary embedding."""

from __future__ import annotations

import math
from typing import Any

import torch

from ingot.backends.tensorrt.network.values import (
    Compute,
    EvaluationError,
    NotEvaluatedError,
    Values,
    given,
    integers,
    needed,
    wide,
)

_MASK, _SCALE, _QUERY_LENGTHS, _KEY_LENGTHS = 3, 4, 5, 6
"""The places of the optional inputs of an ATTENTION_INPUT layer."""


def attention(layer: Any) -> Compute:
    """The whole of an attention, at its first layer; the last passes it on.

    A boolean mask says which keys are seen, any other is added to the scores; scores are not scaled. With lengths, a
    sequence's keys end there, and the lower-right diagonal at its last key.
    """
    whole = layer.attention
    causal, softmax = whole.causal_kind.name, whole.norm_op.name == "SOFTMAX"
    if any(form.name != "PADDED_BHND" for form in (whole.query_form, whole.key_value_form)):
        raise NotEvaluatedError("packed attention is not evaluated on the CPU")

    def run(values: Values) -> list[torch.Tensor]:
        q, k, v = needed(values, 0), needed(values, 1), needed(values, 2)
        mask, lengths = given(values, _MASK), given(values, _KEY_LENGTHS)
        if given(values, _SCALE) is not None:
            raise NotEvaluatedError("attention with quantized probabilities is not evaluated on the CPU")
        groups = q.shape[1] // k.shape[1]
        key, value = wide(k).repeat_interleave(groups, 1), wide(v).repeat_interleave(groups, 1)
        scores = wide(q) @ key.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + wide(mask)
        seen = _seen(q.shape[2], k.shape[2], causal, lengths)
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf if softmax else 0.0)
        weights = torch.softmax(scores, -1) if softmax else scores
        return [(weights @ value).to(q.dtype)]

    return run


def _seen(queries: int, keys: int, causal: str, lengths: torch.Tensor | None) -> torch.Tensor | None:
    if causal == "NONE" and lengths is None:
        return None
    row, column = torch.arange(queries).unsqueeze(1), torch.arange(keys)
    end = torch.tensor([keys]) if lengths is None else lengths.long()
    end = end.reshape(-1, 1, 1, 1)
    seen = column < end
    if causal == "UPPER_LEFT":
        seen = seen & (column <= row)
    elif causal == "LOWER_RIGHT":
        seen = seen & (column <= row + end - queries)
    return seen.expand(end.shape[0], 1, queries, keys)


def attention_output(layer: Any) -> Compute:
    return lambda values: [needed(values, 0)]


def kv_cache_update(layer: Any) -> Compute:
    if layer.update_form.name != "PADDED_BHND":
        raise NotEvaluatedError("a packed update of a KV cache is not evaluated on the CPU")

    def run(values: Values) -> list[torch.Tensor]:
        cache, update, at = needed(values, 0).clone(), needed(values, 1), integers(needed(values, 2))
        for batch, first in enumerate(at):
            if first < 0 or first + update.shape[2] > cache.shape[2]:
                raise EvaluationError(f"an update of {update.shape[2]} tokens at {first} of {cache.shape[2]}")
            cache[batch, :, first : first + update.shape[2]] = update[batch]
        return [cache]

    return run


def rotary_embedding(layer: Any) -> Compute:
    interleaved, dims = bool(layer.interleaved), int(layer.rotary_embedding_dim)

    def run(values: Values) -> list[torch.Tensor]:
        x, cos, sin, positions = needed(values, 0), needed(values, 1), needed(values, 2), given(values, 3)
        if positions is not None:
            cos, sin = cos[positions.long()], sin[positions.long()]
        turned = dims or x.shape[-1]
        half = turned // 2
        c, s = (wide(part)[..., :half].unsqueeze(1) for part in (cos, sin))
        y, rest = wide(x[..., :turned]), x[..., turned:]
        a, b = (y[..., 0::2], y[..., 1::2]) if interleaved else (y[..., :half], y[..., half:])
        real, imaginary = c * a - s * b, s * a + c * b
        mixed = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
        return [torch.cat([mixed.to(x.dtype), rest], -1)]

    return run
