"""What TensorRT's layers between dtypes compute: cast, quantize and dequantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ingot.backends.tensorrt.network.values import (
    Compute,
    EvaluationError,
    NotEvaluatedError,
    Values,
    given,
    needed,
    torch_dtype,
    wide,
)

_LARGEST_FP8 = 448.0
_RANGES = {"INT8": (-128, 127), "INT4": (-8, 7)}


def cast(layer: Any) -> Compute:
    dtype = torch_dtype(layer.to_type)
    return lambda values: [converted(needed(values, 0), dtype)]


def converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float outside of an integer dtype saturates and NaN becomes 0, as the GPU's conversions do."""
    if dtype == torch.bool:
        return x != 0
    if x.is_floating_point() and not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        y = torch.nan_to_num(x.double(), nan=0.0, posinf=float(limits.max), neginf=float(limits.min)).trunc()
        inside = y.clamp(limits.min, limits.max).to(torch.int64)
        return torch.where(y >= float(limits.max), limits.max, inside).to(dtype)
    if dtype == torch.float8_e4m3fn:
        return x.float().clamp(-_LARGEST_FP8, _LARGEST_FP8).to(dtype)
    return x.to(dtype)


def _spread(operand: torch.Tensor, shape: Sequence[int], axis: int) -> torch.Tensor:
    """A scale of one element, of one a channel, or of one a block, over the elements that it belongs to."""
    if operand.numel() == 1:
        return operand.reshape(())
    if operand.ndim == 1 and len(shape) > 1:
        return operand.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])
    for at, (size, whole) in enumerate(zip(operand.shape, shape, strict=True)):
        if size not in (1, whole):
            if whole % size:
                raise EvaluationError(f"blocks of an axis of {whole} in {size} parts")
            operand = operand.repeat_interleave(whole // size, at)
    return operand


def quantize(layer: Any) -> Compute:
    axis, name = int(layer.axis), layer.to_type.name
    dtype = torch_dtype(layer.to_type)

    def run(values: Values) -> list[torch.Tensor]:
        x, scale, zero = needed(values, 0), needed(values, 1), given(values, 2)
        y = wide(x) / _spread(wide(scale), x.shape, axis)
        if name == "FP8":
            return [converted(y, dtype)]
        if name not in _RANGES:
            raise NotEvaluatedError(f"quantization to {name} is not evaluated on the CPU")
        low, high = _RANGES[name]
        y = torch.round(y)
        if zero is not None:
            y = y + _spread(zero.float(), x.shape, axis)
        return [y.clamp(low, high).to(dtype)]

    return run


def dequantize(layer: Any) -> Compute:
    axis, dtype = int(layer.axis), torch_dtype(layer.to_type)

    def run(values: Values) -> list[torch.Tensor]:
        x, scale, zero = needed(values, 0), needed(values, 1), given(values, 2)
        y = x.float()
        if zero is not None:
            y = y - _spread(zero.float(), x.shape, axis)
        return [(y * _spread(wide(scale), x.shape, axis)).to(dtype)]

    return run
