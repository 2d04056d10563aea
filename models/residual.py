"""A small residual convolutional net: batch norm, a strided shortcut, two kinds of pooling; any image size."""

from __future__ import annotations

import torch
from torch import nn

from ingot.models.example import Example, draw, seeded


class Block(nn.Module):
    """x [B, C, height, width] to [B, C', height / stride, width / stride]."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class ResidualNet(nn.Module):
    """images [B, 3, height, width] to logits [B, classes]."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.blocks(self.stem(images))).flatten(1))  # type: ignore[no-any-return]


def build(seed: int = 0) -> Example:
    axes = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", min=16, max=128),
        3: torch.export.Dim("width", min=16, max=128),
    }
    return Example(seeded(seed, ResidualNet), (draw(seed, 2, 3, 32, 40),), dynamic_shapes={"images": axes})
