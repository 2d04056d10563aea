"""A two-layer LSTM in both directions, with its final state among the results."""

from __future__ import annotations

import torch
from torch import nn

from ingot.models.example import Example, draw, seeded


class Tagger(nn.Module):
    """x [B, S, features] to tags [B, S, classes] and the final hidden and cell state, [2 * layers, B, hidden] each."""

    def __init__(self, features: int = 12, hidden: int = 16, layers: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        y, state = self.lstm(x)
        return self.head(y), state


def build(seed: int = 0) -> Example:
    # torch.export unrolls an LSTM over time to find its shapes, so the length stays fixed.
    axes = {0: torch.export.Dim("batch")}
    return Example(seeded(seed, Tagger), (draw(seed, 2, 7, 12),), dynamic_shapes={"x": axes})
