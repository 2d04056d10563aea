"""Models whose difficulty is their interface: nested inputs and outputs, and dims that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ingot.models.example import Example, draw, seeded


@dataclass
class Scores:
    """What `Nested` gives: `parts` holds, by name, a tensor and a pair of tensors."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


class Nested(nn.Module):
    """batch {"pair": (left [B, 6], right [B, 6]), "single": (value [B, 4],)} and scale [1] to Scores."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(6, 6, 3)
        self.single = nn.Linear(4, 3)

    def forward(self, batch: dict[str, tuple[torch.Tensor, ...]], scale: torch.Tensor) -> Scores:
        left, right = batch["pair"]
        paired = self.pair(left, right) * scale
        alone = torch.tanh(self.single(batch["single"][0]))
        return Scores(paired + alone, {"alone": alone, "ends": (paired.amin(dim=1), paired.amax(dim=1))})


class Mirror(nn.Module):
    """x [B, length] and y [B, 2*length + 1] to [B, 2*length + 1] and [B, 2]: x and its mirror image around a centre."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.randn(1))
        self.smooth = nn.Conv1d(2, 2, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        centre = self.centre.expand(x.shape[0], 1)
        mirrored = torch.cat([x, centre, x.flip(1)], dim=1)
        smooth = self.smooth(torch.stack([mirrored * y, mirrored - y], dim=1))
        return smooth[:, 0] + y, smooth.mean(dim=2)


def nested(seed: int = 0) -> Example:
    axes = {0: torch.export.Dim("batch")}
    batch = {"pair": (draw(seed, 2, 6), draw(seed + 1, 2, 6)), "single": (draw(seed + 2, 2, 4),)}
    return Example(
        seeded(seed, Nested),
        kwargs={"batch": batch, "scale": draw(seed + 3, 1)},
        dynamic_shapes={"batch": {"pair": (axes, axes), "single": (axes,)}, "scale": None},
    )


def mirror(seed: int = 0) -> Example:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=100)
    return Example(
        seeded(seed, Mirror),
        (draw(seed, 2, 5), draw(seed + 1, 2, 11)),
        dynamic_shapes={"x": {0: batch, 1: length}, "y": {0: batch, 1: 2 * length + 1}},
    )
