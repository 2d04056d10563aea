"""A model of one gigabyte of weights, as a function that builds it and as a folder that holds it."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.minilm import cache

WIDTH, LAYERS = 4096, 16
"""16 matrices of 64 MiB."""


class Large(torch.nn.Module):
    """x [B, H] to [B, H]: residual linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.nn.functional.gelu(layer(x))
        return x


def module() -> tuple[Large, torch.Tensor]:
    """For `ingot compile benchmarks.large:module`."""
    torch.manual_seed(0)
    return Large(), torch.randn(2, WIDTH)


def weights_bytes(model: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())


def folder() -> tuple[Path, int]:
    """A Hugging Face folder of a BERT with drawn weights, made the first time, and the bytes of its weights."""
    from transformers import BertConfig, BertModel

    home = cache() / "large"
    shape = BertConfig(
        hidden_size=2048,
        num_hidden_layers=4,
        num_attention_heads=16,
        intermediate_size=8192,
        architectures=["BertModel"],
    )
    with torch.device("meta"):
        size = weights_bytes(BertModel(shape))
    if not home.is_dir():
        torch.manual_seed(0)
        partial = cache() / "large.partial"
        BertModel(shape).save_pretrained(partial)
        partial.rename(home)
    return home, size
