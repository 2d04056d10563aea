"""A small convolutional net in int8, as PyTorch's own quantization leaves it: Q/DQ around every layer's input.

All scales are powers of two, and sums of products then exact in float32 in whatever order: otherwise a value at a tie
would be rounded up by one runtime and down by another, and no two of them agree.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # defines torch.ops.quantized_decomposed
from torch import nn

from ingot.models.example import Example, draw, seeded

_OPS = torch.ops.quantized_decomposed
_LOW, _HIGH = -128, 127


class Rounded(nn.Module):
    """x to the nearest multiple of `scale` that 8 bits hold, symmetric around zero."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = _OPS.quantize_per_tensor(x, self.scale, 0, _LOW, _HIGH, torch.int8)
        return _OPS.dequantize_per_tensor(q, self.scale, 0, _LOW, _HIGH, torch.int8)  # type: ignore[no-any-return]


class Int8Weight(nn.Module):
    """A weight stored in 8 bits with a power of two as scale for each output channel."""

    stored: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        scales = torch.exp2((weight.flatten(1).abs().amax(1) / _HIGH).log2().ceil())
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.register_buffer(
            "stored", _OPS.quantize_per_channel(weight, scales, self.zeros, 0, _LOW, _HIGH, torch.int8)
        )

    def forward(self) -> torch.Tensor:
        return _OPS.dequantize_per_channel(  # type: ignore[no-any-return]
            self.stored, self.scales, self.zeros, 0, _LOW, _HIGH, torch.int8
        )


class QuantizedNet(nn.Module):
    """images [B, 3, height, width] to logits [B, classes]: convolutions, one residual, the last of 1 x 1."""

    first_bias: torch.Tensor
    head_bias: torch.Tensor

    def __init__(self, width: int = 16, classes: int = 16) -> None:
        super().__init__()
        self.first = Int8Weight(torch.randn(width, 3, 3, 3) / 5)
        self.second = Int8Weight(torch.randn(width, width, 3, 3) / 12)
        self.head = Int8Weight(torch.randn(classes, width, 1, 1) / 4)
        self.register_buffer("first_bias", torch.randint(-200, 200, (width,)) / 1024)
        self.register_buffer("head_bias", torch.randint(-200, 200, (classes,)) / 1024)
        self.image, self.middle, self.last = Rounded(1 / 32), Rounded(1 / 32), Rounded(1 / 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        conv = torch.nn.functional.conv2d
        x = torch.relu(conv(self.image(images), self.first(), self.first_bias, stride=2, padding=1))
        x = torch.relu(conv(self.middle(x), self.second(), padding=1) + x)
        return conv(self.last(x), self.head(), self.head_bias).mean((2, 3))


def build(seed: int = 0, *, width: int = 16) -> Example:
    axes = {0: torch.export.Dim("batch", max=8), 2: torch.export.Dim("height", min=16, max=64)}
    return Example(
        seeded(seed, lambda: QuantizedNet(width)), (draw(seed, 2, 3, 32, 40),), dynamic_shapes={"images": axes}
    )
