"""A model so small that running it costs next to nothing: what the overhead of a call is measured on."""

from __future__ import annotations

import torch
from torch import nn

from ingot.models.example import Example, draw, seeded


class Tiny(nn.Module):
    """x [B, 4] to [B, 4]: x * scale + shift."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def build(seed: int = 0) -> Example:
    return Example(seeded(seed, Tiny), (draw(seed, 2, 4),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
