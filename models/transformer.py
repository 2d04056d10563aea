"""Small attention models in plain torch: a vision transformer, a GPT-2-like decoder, an encoder-decoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ingot.models.example import Example, draw, draw_ids, seeded


class Attention(nn.Module):
    """x [B, S, H] attends to `memory` [B, T, H], or to itself; `mask` [B, T] is true where a position counts."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key_value = nn.Linear(hidden, 2 * hidden)
        self.output = nn.Linear(hidden, hidden)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        key, value = self.key_value(x if memory is None else memory).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(x), key, value)
        )
        kept = None if mask is None else mask[:, None, None, :]
        y = scaled_dot_product_attention(query, key, value, attn_mask=kept, is_causal=causal)
        return self.output(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Norm before attention and before the gelu MLP; with `cross`, attention to an encoder's memory in between."""

    def __init__(self, hidden: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads)
        self.cross_norm = nn.LayerNorm(hidden) if cross else None
        self.cross = Attention(hidden, heads) if cross else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 4 * hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * hidden, hidden),
        )

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
    ) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask=None if self.cross else mask, causal=causal)
        if self.cross is not None and self.cross_norm is not None:
            x = x + self.cross(self.cross_norm(x), memory, mask)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """images [B, 3, 32, 32] to logits [B, classes]: patches of 8, a class token, learned positions."""

    def __init__(self, hidden: int = 32, heads: int = 4, layers: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, kernel_size=8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, hidden))
        self.positions = nn.Parameter(torch.randn(1, 17, hidden))
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))  # type: ignore[no-any-return]


class Gpt(nn.Module):
    """input_ids [B, S] to logits [B, S, vocabulary]: learned positions, causal attention, tied embeddings, no cache."""

    def __init__(
        self, vocabulary: int = 97, hidden: int = 32, heads: int = 4, layers: int = 2, positions: int = 64
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(positions, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for layer in self.layers:
            x = layer(x, causal=True)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """source_ids, source_mask [B, S] and target_ids [B, T] to logits [B, T, vocabulary] and the encoder's memory."""

    def __init__(
        self, vocabulary: int = 89, hidden: int = 32, heads: int = 4, layers: int = 2, positions: int = 48
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Parameter(torch.randn(positions, hidden))
        self.encoder = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(hidden, heads, cross=True) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(
        self, source_ids: torch.Tensor, source_mask: torch.Tensor, target_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        mask = source_mask.bool()
        memory = self.tokens(source_ids) + self.positions[: source_ids.shape[1]]
        for layer in self.encoder:
            memory = layer(memory, mask=mask)
        x = self.tokens(target_ids) + self.positions[: target_ids.shape[1]]
        for layer in self.decoder:
            x = layer(x, memory, mask, causal=True)
        return {"logits": self.head(self.norm(x)), "memory": memory}


def vision_transformer(seed: int = 0) -> Example:
    images = draw(seed, 2, 3, 32, 32)
    return Example(
        seeded(seed, VisionTransformer), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )


def gpt(seed: int = 0) -> Example:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    return Example(
        seeded(seed, Gpt), kwargs={"input_ids": draw_ids(seed, 97, 2, 12)}, dynamic_shapes={"input_ids": axes}
    )


def encoder_decoder(seed: int = 0) -> Example:
    batch = torch.export.Dim("batch")
    source = {0: batch, 1: torch.export.Dim("source", max=48)}
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, -4:] = 0
    return Example(
        seeded(seed, EncoderDecoder),
        kwargs={
            "source_ids": draw_ids(seed, 89, 2, 9),
            "source_mask": mask,
            "target_ids": draw_ids(seed + 1, 89, 2, 6),
        },
        dynamic_shapes={
            "source_ids": source,
            "source_mask": source,
            "target_ids": {0: batch, 1: torch.export.Dim("target", max=48)},
        },
    )
