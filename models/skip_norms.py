"""A stack of gated layers whose additions and norms are one operation of ours, a plugin on TensorRT."""

from __future__ import annotations

import torch
from torch import nn

from ingot.models.example import Example, draw, seeded
from ingot.plugins.skip_norm import skip_norm


class GatedLayer(nn.Module):
    """x, residual [B, S, H] to the layer's result and the new residual, of the same shape."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.gate = nn.Linear(hidden, intermediate, bias=False)
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, residual = skip_norm(x, residual, self.weight, epsilon=1e-5)
        return self.down(nn.functional.silu(self.gate(y)) * self.up(y)), residual


class SkipNorms(nn.Module):
    """x [B, S, H] to [B, S, H]: the layers are RMS norms, the last norm is a layer norm with a bias."""

    def __init__(self, hidden: int = 64, intermediate: int = 96, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedLayer(hidden, intermediate) for _ in range(layers))
        self.weight, self.bias = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = torch.zeros_like(x)
        for layer in self.layers:
            x, residual = layer(x, residual)
        return skip_norm(x, residual, self.weight, self.bias, kind="layer")[0]


def build(seed: int = 0) -> Example:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=128)}
    return Example(seeded(seed, SkipNorms), (draw(seed, 2, 7, 64),), dynamic_shapes={"x": axes})
