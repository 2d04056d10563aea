"""The values on the edges of a TensorRT network while it is evaluated on the CPU: dtypes, arrays, weights."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ingot.errors import BuildError, EngineError

Array = np.ndarray[Any, Any]
Values = Sequence[torch.Tensor | None]
"""The inputs of a layer, None where an optional one is absent."""
Compute = Callable[[Values], list[torch.Tensor]]
"""A decoded layer: its inputs to its outputs."""

TORCH: dict[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "FP8": torch.float8_e4m3fn,
    "INT4": torch.int8,
}
"""What holds a value of each of TensorRT's dtypes; INT4 is held as INT8."""


class NotEvaluatedError(BuildError):
    """A layer or feature that is not evaluated on the CPU, whatever its operands: of an unknown kind, or random."""


class EvaluationError(EngineError):
    """A network that does not compute on its inputs: operands do not fit, or TensorRT leaves undefined what it asks."""


def torch_dtype(kind: Any) -> torch.dtype:
    """Of a member of TensorRT's DataType. Raises NotEvaluatedError for 4-bit floats and bare exponents."""
    if kind.name not in TORCH:
        raise NotEvaluatedError(f"dtype {kind.name} is not evaluated on the CPU")
    return TORCH[kind.name]


def from_array(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """The tensor of an array of the given dtype; bfloat16 and float8 as their bits, or in the dtypes of ml_dtypes."""
    array = np.asarray(array, order="C")
    bits = {torch.bfloat16: np.uint16, torch.float8_e4m3fn: np.uint8}.get(dtype)
    if bits is not None and array.dtype.itemsize == np.dtype(bits).itemsize:
        return torch.from_numpy(array.view(bits).copy()).view(dtype)
    if array.dtype.name == "int4":
        array = array.astype(np.int8)
    tensor = torch.from_numpy(array.copy())
    if tensor.dtype != dtype:
        raise EvaluationError(f"an input of dtype {array.dtype.name} was given where the network takes {dtype}")
    return tensor


def to_array(tensor: torch.Tensor) -> Array:
    """numpy's array of a tensor; bfloat16 and float8, which numpy lacks, as their bits."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy()
    result: Array = tensor.numpy()
    return result


class _Weights(ctypes.Structure):
    """TensorRT's own nvinfer1::Weights."""

    _fields_ = (("kind", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


def weights_tensor(weights: Any, shape: Sequence[int]) -> torch.Tensor:
    """The tensor of a constant's weights, a view wherever numpy has the dtype."""
    if isinstance(weights, np.ndarray):
        weights = weights if weights.flags.writeable else weights.copy()
        return torch.from_numpy(weights).reshape(tuple(shape))
    return _unpacked(_raw_bytes(weights), weights.dtype.name, int(weights.size)).reshape(tuple(shape))


def optional_weights(weights: Any, shape: Sequence[int] | None = None) -> torch.Tensor | None:
    """The same of weights that a layer need not have, by default as one row; None where there are none."""
    count = int(weights.size) if hasattr(weights, "size") else len(weights)
    return None if count == 0 else weights_tensor(weights, (count,) if shape is None else shape)


def _raw_bytes(weights: Any) -> torch.Tensor:
    """The bytes of weights whose dtype numpy lacks: the bindings hand out no pointer to them, so it is read from the
    object that they wrap, which must agree about dtype and count."""
    inner = _Weights.from_address(ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value or 0)
    if inner.kind != int(weights.dtype) or inner.count != weights.size or not inner.values:
        raise NotEvaluatedError(f"weights of dtype {weights.dtype.name} cannot be read through these bindings")
    size_bytes = (weights.size * _BITS.get(weights.dtype.name, 8) + 7) // 8
    return torch.frombuffer(bytearray(ctypes.string_at(inner.values, size_bytes)), dtype=torch.uint8)


_BITS = {"BF16": 16, "INT4": 4, "FP4": 4}
"""Of an element whose dtype numpy lacks; 8 where it is not here. The bindings' own count is wrong below a byte."""


def _unpacked(data: torch.Tensor, kind: str, count: int) -> torch.Tensor:
    if kind == "INT4":
        nibbles = torch.stack([data & 15, data >> 4], dim=1).reshape(-1)[:count].to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles)
    if kind not in TORCH:
        raise NotEvaluatedError(f"weights of dtype {kind} are not evaluated on the CPU")
    return data.view(TORCH[kind])


def integers(tensor: torch.Tensor) -> list[int]:
    """The elements of a shape tensor."""
    return [int(element) for element in tensor.reshape(-1).tolist()]


def given(values: Values, index: int) -> torch.Tensor | None:
    """The optional input `index`."""
    return values[index] if index < len(values) else None


def needed(values: Values, index: int) -> torch.Tensor:
    value = given(values, index)
    if value is None:
        raise EvaluationError(f"input {index} of the layer is missing")
    return value


def mask_axes(mask: int) -> list[int]:
    """The axes of a bit mask."""
    return [axis for axis in range(32) if mask >> axis & 1]


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """16-bit floats as float32, in which sums are kept."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
