"""A Llama-like decoder without a cache, in plain torch: RMS norm, rotary positions, grouped heads, SwiGLU."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from ingot.models.example import Example, draw_ids, seeded


class RmsNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last axis."""

    def __init__(self, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x [B, N, S, D] by angles [S, D], the halves of D paired."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Attention(nn.Module):
    """Causal attention of x [B, S, H], `groups` key and value heads for `heads` query heads."""

    def __init__(self, hidden: int, heads: int, groups: int) -> None:
        super().__init__()
        self.head_size = hidden // heads
        self.repeats = heads // groups
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, groups * self.head_size, bias=False)
        self.value = nn.Linear(hidden, groups * self.head_size, bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        key, value = key.repeat_interleave(self.repeats, dim=1), value.repeat_interleave(self.repeats, dim=1)
        y = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Norm before attention and before the gated MLP."""

    def __init__(self, hidden: int, heads: int, groups: int, intermediate: int) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(hidden)
        self.attention = Attention(hidden, heads, groups)
        self.mlp_norm = RmsNorm(hidden)
        self.gate = nn.Linear(hidden, intermediate, bias=False)
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        y = self.mlp_norm(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """input_ids [B, S] to logits [B, S, vocabulary]."""

    inverse_frequencies: torch.Tensor

    def __init__(
        self,
        vocabulary: int = 101,
        hidden: int = 32,
        heads: int = 4,
        groups: int = 2,
        intermediate: int = 88,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, groups, intermediate) for _ in range(layers))
        self.norm = RmsNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        size = hidden // heads
        self.register_buffer("inverse_frequencies", 10_000.0 ** (-torch.arange(0, size, 2) / size), persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device, dtype=torch.float32)
        angles = torch.outer(positions, self.inverse_frequencies).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        x = self.tokens(input_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def build(seed: int = 0) -> Example:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=128)}
    return Example(
        seeded(seed, Llama), kwargs={"input_ids": draw_ids(seed, 101, 2, 12)}, dynamic_shapes={"input_ids": axes}
    )


def large(seed: int = 0, *, size_bytes: int = 1 << 30) -> Example:
    """About `size_bytes` of weights in layers of 180 MB, at least one: what memory and loading are measured on."""
    vocabulary, hidden, heads, groups, intermediate = 8192, 2048, 16, 4, 5632
    layer = 2 * hidden * hidden + 2 * hidden * (hidden // heads * groups) + 3 * hidden * intermediate + 2 * hidden
    layers = max(1, round((size_bytes // 4 - 2 * vocabulary * hidden) / layer))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=128)}
    return Example(
        seeded(seed, lambda: Llama(vocabulary, hidden, heads, groups, intermediate, layers)),
        kwargs={"input_ids": draw_ids(seed, vocabulary, 2, 12)},
        dynamic_shapes={"input_ids": axes},
    )
