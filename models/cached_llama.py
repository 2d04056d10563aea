"""A Llama-like decoder of one sequence with a linear cache: a fixed maximum, caches as inputs and outputs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ingot.models.example import Example, draw_ids, seeded
from ingot.models.llama import Attention, Layer, Llama, rotate

Cache = list[torch.Tensor]
"""One [1, Nkv, max, D] for each layer."""


class CachedLlama(Llama):
    """input_ids [1, S] at positions start [1] .. start + S - 1, keys and values so far -> logits, keys, values.

    The weights are Llama's by name, so that a state_dict of one fits the other.
    """

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, start: torch.Tensor, keys: Cache, values: Cache
    ) -> dict[str, torch.Tensor | Cache]:
        positions = start + torch.arange(input_ids.shape[1], device=input_ids.device)
        angles = torch.outer(positions.to(torch.float32), self.inverse_frequencies).repeat(1, 2)
        x = self.tokens(input_ids)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        seen = torch.arange(keys[0].shape[2], device=x.device)[None, :] <= positions[:, None]
        new_keys, new_values = [], []
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            x, key, value = _layer(layer, x, (cos, sin), (key, value), positions, seen)
            new_keys.append(key)
            new_values.append(value)
        return {"logits": self.head(self.norm(x)), "keys": new_keys, "values": new_values}


def _layer(
    layer: nn.Module,
    x: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    cache: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    seen: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert isinstance(layer, Layer)
    y, key, value = _attend(layer.attention, layer.attention_norm(x), angles, cache, positions, seen)
    x = x + y
    y = layer.mlp_norm(x)
    return x + layer.down(torch.nn.functional.silu(layer.gate(y)) * layer.up(y)), key, value


def _attend(
    attention: Attention,
    x: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    cache: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    seen: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`seen` [S, max] says which positions of the cache a query may look at."""
    query, key, value = (
        project(x).unflatten(-1, (-1, attention.head_size)).transpose(1, 2)
        for project in (attention.query, attention.key, attention.value)
    )
    query, key = rotate(query, *angles), rotate(key, *angles)
    keys, values = torch.index_copy(cache[0], 2, positions, key), torch.index_copy(cache[1], 2, positions, value)
    y = scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=attention.repeats > 1)
    return attention.output(y.transpose(1, 2).flatten(2)), keys, values


def empty_cache(model: Llama, tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Cache, Cache]:
    """Zeroed keys and values for `tokens` positions."""
    caches: tuple[Cache, Cache] = [], []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention = layer.attention
        groups = attention.key.out_features // attention.head_size
        for cache in caches:
            cache.append(torch.zeros(1, groups, tokens, attention.head_size, dtype=dtype))
    return caches


def build(
    seed: int = 0,
    *,
    tokens: int = 32,
    dtype: torch.dtype = torch.float32,
    vocabulary: int = 101,
    hidden: int = 64,
    heads: int = 4,
    groups: int = 2,
    intermediate: int = 88,
    layers: int = 2,
) -> Example:
    """`tokens` is what the cache holds; a step may be of up to half of them."""
    model = seeded(seed, lambda: CachedLlama(vocabulary, hidden, heads, groups, intermediate, layers).to(dtype))
    assert isinstance(model, CachedLlama)
    # Rotary angles stay float32, as checkpoints have them: rounded frequencies would drift with the position.
    model.inverse_frequencies = 10_000.0 ** (-torch.arange(0, hidden // heads, 2) / (hidden // heads))
    keys, values = empty_cache(model, tokens, dtype)
    sequence = torch.export.Dim("sequence", max=tokens // 2)
    return Example(
        model,
        kwargs={
            "input_ids": draw_ids(seed, vocabulary, 1, 5),
            "start": torch.tensor([3]),
            "keys": keys,
            "values": values,
        },
        dynamic_shapes={
            "input_ids": {1: sequence},
            "start": None,
            "keys": [None] * layers,
            "values": [None] * layers,
        },
    )
