"""The sizes that an engine is built for: least, tuned for and most, of every input with a size that varies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ingot.errors import UsageError
from ingot.signature import Axis, Dim, Signature, Tensor, linear

LEAST_MAX = 32
"""Where a dim has no upper bound, TensorRT needs one all the same: this, or BY_DEFAULT times the example's size."""
BY_DEFAULT = 8

LARGEST = 2**31 - 1

End = Literal["min", "opt", "max"]
ENDS: tuple[End, ...] = ("min", "opt", "max")

Profile = dict[str, dict[str, list[int]]]
"""An input's name to {"min": sizes, "opt": sizes, "max": sizes}."""


def profile(signature: Signature, sizes: Mapping[str, int]) -> tuple[Profile, list[str]]:
    """One profile of every input that has a named dim, and what to tell people about it. `sizes` is tuned for.

    Raises UsageError where a bound is beyond what TensorRT counts to.
    """
    ranges: dict[str, Mapping[End, int]] = {}
    notes = []
    for dim in signature.dims:
        ranges[dim.name], unbounded = _range(dim, sizes.get(dim.name))
        if unbounded:
            most = ranges[dim.name]["max"]
            notes.append(f"{dim.name} has no upper bound: the engine takes up to {most}; --shape INPUT={dim.name}:1..N")
    found: Profile = {}
    for tensor in signature.inputs:
        if any(isinstance(axis, str) for axis in tensor.shape):
            found[tensor.name] = {end: [_size(axis, ranges, end) for axis in tensor.shape] for end in ENDS}
            _check(tensor, found[tensor.name]["max"])
    return found, notes


def _range(dim: Dim, size: int | None) -> tuple[Mapping[End, int], bool]:
    tuned = dim.min if size is None else max(dim.min, size)
    most = max(LEAST_MAX, BY_DEFAULT * tuned) if dim.max is None else dim.max
    return {"min": dim.min, "opt": min(tuned, most), "max": most}, dim.max is None


def _size(axis: Axis, ranges: Mapping[str, Mapping[End, int]], end: End) -> int:
    if isinstance(axis, int):
        return axis
    found = linear(axis)
    if found is None or found.dim not in ranges:
        raise UsageError(f"the axis '{axis}' of an input is no multiple of a dim", fix="--shape with named dims")
    return found.size(ranges[found.dim][end])


def _check(tensor: Tensor, most: list[int]) -> None:
    elements = 1
    for size in most:
        elements *= size
    if elements > LARGEST:
        shown = "x".join(map(str, most))
        raise UsageError(
            f"input {tensor.name} may grow to {shown}, more elements than TensorRT counts ({LARGEST:,})",
            fix=f"a smaller upper bound: --shape {tensor.name}=DIM:1..N",
        )


def as_option(found: Profile) -> dict[str, Any]:
    """As the engine file's header has it: input to [min, opt, max]."""
    return {name: [ends[end] for end in ENDS] for name, ends in found.items()}
