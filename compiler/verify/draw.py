"""The inputs that an engine is verified on: the user's own, then drawn ones at other sizes, then padded ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ingot.runtime.metrics import widen
from ingot.signature import Axis, Dim, Linear, Signature, Tensor, linear

Array = np.ndarray[Any, Any]

LARGE_FACTOR = 4
LARGE_ELEMENTS = 160
"""The large case has at most this many times the elements of the example's largest input, or at least this many:
enough to pass a window or a bucket boundary, little enough that verification stays cheap beside the export."""


@dataclass(frozen=True, slots=True)
class Case:
    """One call: flat inputs in the order of the signature, and where they come from. `name` tells the sizes."""

    name: str
    origin: Literal["user", "drawn", "padded"]
    inputs: tuple[Array, ...]


def cases(
    signature: Signature, examples: Sequence[Array], *, seed: int, mode: Literal["full", "quick"] = "full"
) -> list[Case]:
    """The user's example; the least size of every dim; sizes in the middle, all different primes where the bounds
    allow it, so that swapped axes show; large ones. Where an input is a mask, the large case and one more in the
    middle are padded. "quick": the user's example alone.

    Floats are drawn normal with the example's mean and deviation and inside its range, integers inside their domain
    or, lacking one, between the example's least and greatest. The same seed gives the same arrays.
    """
    traced = dim_sizes(signature, examples)
    drawn = [Case(_title("user", traced), "user", tuple(examples))]
    if mode == "quick":
        return drawn
    masked = any(_is_mask(tensor) for tensor in signature.inputs)
    middle = _middle_sizes(signature, traced)
    plans = [
        ("least", {dim.name: _least(dim) for dim in signature.dims}, False),
        ("middle", middle, False),
        ("large", _large_sizes(signature, traced), masked),
        *([("middle", middle, True)] if masked else []),
    ]
    seen = set()
    for index, (name, sizes, padded) in enumerate(plans):
        if (key := (tuple(sizes.items()), padded)) in seen:
            continue
        seen.add(key)
        rng = np.random.default_rng([seed, index])
        masks: dict[tuple[int, ...], Array] = {}
        arrays = tuple(
            _draw(tensor, example, shape_of(tensor, sizes), padded, masks, rng)
            for tensor, example in zip(signature.inputs, examples, strict=True)
        )
        title = _title(f"{name}, padded" if padded else name, sizes)
        drawn.append(Case(title, "padded" if padded else "drawn", arrays))
    return drawn


def dim_sizes(signature: Signature, arrays: Sequence[Array]) -> dict[str, int]:
    """The size of every dim that an axis of the inputs tells."""
    sizes: dict[str, int] = {}
    for tensor, array in zip(signature.inputs, arrays, strict=True):
        for axis, size in zip(tensor.shape, array.shape, strict=True):
            if isinstance(axis, str) and (form := linear(axis)) and (value := form.solve(size)) is not None:
                sizes.setdefault(form.dim, value)
    return {dim.name: sizes.get(dim.name, _least(dim)) for dim in signature.dims}


def shape_of(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """An input's shape at these sizes."""
    return tuple(axis if isinstance(axis, int) else _form(axis).size(sizes[_form(axis).dim]) for axis in tensor.shape)


def _form(axis: Axis) -> Linear:
    form = linear(axis) if isinstance(axis, str) else None
    assert form is not None, f"the axis of an input is linear in one dim, not {axis}"
    return form


def _title(name: str, sizes: Mapping[str, int]) -> str:
    return f"{name} ({', '.join(f'{dim}={size}' for dim, size in sizes.items()) or 'fixed sizes'})"


def _is_mask(tensor: Tensor) -> bool:
    return tensor.domain is not None and tensor.domain.role == "mask" and len(tensor.shape) > 0


def _least(dim: Dim) -> int:
    return max(dim.min, 1)


def _middle_sizes(signature: Signature, traced: Mapping[str, int]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    axes = [axis for tensor in signature.inputs for axis in tensor.shape]
    taken = {axis for axis in axes if isinstance(axis, int)} | set(traced.values())
    for dim in signature.dims:
        sizes[dim.name] = _prime_near(max(3, traced[dim.name] * 3 // 4), dim, taken)
        taken.add(sizes[dim.name])
    return sizes


def _large_sizes(signature: Signature, traced: Mapping[str, int]) -> dict[str, int]:
    """Dims that lead an input (batch) stay small, so that the others can grow far past the traced sizes."""
    first = [tensor.shape[0] for tensor in signature.inputs if tensor.shape]
    leading = {_form(axis).dim for axis in first if isinstance(axis, str)}
    grown = [dim for dim in signature.dims if dim.name not in leading] or list(signature.dims)
    start = {dim.name: traced[dim.name] if dim in grown else _least(dim) + 1 for dim in signature.dims}
    budget = max(LARGE_FACTOR * _elements(signature, traced), LARGE_ELEMENTS)
    factor = (budget / max(1, _elements(signature, start))) ** (1 / max(1, len(grown)))
    taken = set(traced.values())
    sizes: dict[str, int] = {}
    for dim in signature.dims:
        target = int(start[dim.name] * factor) if dim in grown else start[dim.name]
        sizes[dim.name] = _prime_near(target, dim, taken)
        taken.add(sizes[dim.name])
    return sizes


def _elements(signature: Signature, sizes: Mapping[str, int]) -> int:
    return max((math.prod(shape_of(tensor, sizes)) for tensor in signature.inputs), default=1)


def _prime_near(target: int, dim: Dim, taken: set[int]) -> int:
    """The prime nearest to `target` that the dim may take and nothing else has; without one, the nearest size."""
    low, high = _least(dim), math.inf if dim.max is None else dim.max
    target = int(min(max(target, low), high))
    near = sorted(range(max(low, target - 64), int(min(high, target + 64)) + 1), key=lambda size: abs(size - target))
    free = [size for size in near if size not in taken]
    return next((size for size in free if _is_prime(size)), (free or near)[0])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _draw(
    tensor: Tensor,
    example: Array,
    shape: tuple[int, ...],
    padded: bool,
    masks: dict[tuple[int, ...], Array],
    rng: np.random.Generator,
) -> Array:
    """`masks` holds this case's padding by shape: masks of one shape speak of the same tokens."""
    if _is_mask(tensor):
        if shape not in masks:
            masks[shape] = _padding(shape, rng) if padded else np.ones(shape)
        return _as_dtype(masks[shape], tensor.dtype)
    if tensor.domain is not None:
        return _as_dtype(rng.integers(tensor.domain.low, tensor.domain.high, shape, endpoint=True), tensor.dtype)
    if tensor.dtype == "bool":
        return np.asarray(rng.integers(0, 1, shape, endpoint=True)).astype(bool)
    if np.issubdtype(example.dtype, np.integer) and tensor.dtype != "bfloat16":
        low, high = (int(example.min()), int(example.max())) if example.size else (0, 0)
        return np.asarray(rng.integers(low, high, shape, endpoint=True, dtype=example.dtype))
    return _as_dtype(_draw_float(widen(example, tensor.dtype), shape, rng), tensor.dtype)


def _draw_float(example: Array, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    values = np.asarray(rng.standard_normal(shape))
    seen = example[np.isfinite(example)]
    if not seen.size:
        return values
    low, high, mean, deviation = (float(statistic) for statistic in (seen.min(), seen.max(), seen.mean(), seen.std()))
    if low == high:
        # torch.ones(...) as an example says nothing about the range, and constants would hide most faults.
        return np.asarray(values + mean)
    return np.asarray(np.clip(values * deviation + mean, low, high))


def _as_dtype(values: Array, dtype: str) -> Array:
    """bfloat16, which numpy lacks, rounded to its bits."""
    if dtype != "bfloat16":
        return np.asarray(values).astype(dtype)
    bits = np.asarray(values).astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _padding(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ones, then zeros along the last axis: the first row full, the second with one token, the others of any length;
    a single row is cut somewhere."""
    rows, last = math.prod(shape[:-1]), shape[-1]
    lengths = rng.integers(1, max(last, 2), rows)
    if rows > 1:
        lengths[:2] = last, 1
    return (np.arange(last) < lengths[:, None]).astype(np.float64).reshape(shape)
