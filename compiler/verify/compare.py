"""Judges the outputs of one case: the engine's against eager's, and against float64 where eager's own noise decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.runtime.metrics import NOISE_FACTOR, Measure, measure
from ingot.signature import Signature, Tensor
from ingot.verify.draw import Case

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputAccuracy:
    """One output on one case."""

    name: str
    dtype: str
    case: str
    measure: Measure

    @property
    def short_db(self) -> float:
        """How far under its floor: what ranks failures. inf where something that must be exact is not."""
        return math.inf if self.measure.mismatch else (self.measure.needed_db or 0.0) - self.measure.worst_db

    @property
    def floor_db(self) -> float | None:
        """What a later measurement must reach: the dtype's floor, or what was accepted as noise, once more as wide."""
        if self.measure.within_noise:
            return self.measure.worst_db - 20 * math.log10(NOISE_FACTOR)
        return self.measure.needed_db

    def to_json(self) -> dict[str, Any]:
        """For the record; an SQNR of null is no difference at all."""
        found = self.measure
        return {
            "name": self.name,
            "dtype": self.dtype,
            "case": self.case,
            "sqnr_db": _finite(found.sqnr_db),
            "row_sqnr_db": _finite(found.row_sqnr_db),
            "max_abs_error": found.max_abs_error,
            "needed_db": found.needed_db,
            "floor_db": self.floor_db,
            "within_noise": found.within_noise,
        }

    def __str__(self) -> str:
        found = self.measure
        if found.mismatch:
            return f"output '{self.name}': {found.mismatch}"
        row = f", worst row {list(found.row)} {found.row_sqnr_db:.1f} dB" if found.row else ""
        return (
            f"output '{self.name}': {found.sqnr_db:.1f} dB{row}, needs {found.needed_db:.0f} dB "
            f"(largest error {found.max_abs_error:.2g})"
        )


def judge(
    signature: Signature,
    case: Case,
    expected: Sequence[Array],
    got: Sequence[Array],
    exact: Callable[[], Sequence[Array] | None],
    typical_noise: Callable[[], Sequence[float]] = lambda: (),
) -> list[OutputAccuracy]:
    """One judgement for each output of the signature, in order.

    `exact` computes the outputs in float64 and `typical_noise` eager's rms error for each output over all cases;
    both are asked only where the floor is missed, the second only where the first does not explain it.
    """
    return [
        OutputAccuracy(tensor.name, tensor.dtype, case.name, _judge(tensor, index, expected, got, exact, typical_noise))
        for index, tensor in enumerate(signature.outputs)
    ]


def _judge(
    tensor: Tensor,
    index: int,
    expected: Sequence[Array],
    got: Sequence[Array],
    exact: Callable[[], Sequence[Array] | None],
    typical_noise: Callable[[], Sequence[float]],
) -> Measure:
    last = index == len(expected) - 1
    if index >= len(got) or (last and len(got) != len(expected)):
        return Measure(False, mismatch=f"the engine gives {len(got)} outputs, declared are {len(expected)}")
    reference, array = expected[index], got[index]
    if wrong := _undeclared(tensor, array):
        return Measure(False, mismatch=wrong)
    found = measure(reference, array, tensor.dtype)
    if found.holds or found.mismatch:
        return found
    wide = exact()
    if wide is None:
        return found
    found = measure(reference, array, tensor.dtype, exact=wide[index])
    if found.holds:
        return found
    return measure(reference, array, tensor.dtype, exact=wide[index], typical_noise=typical_noise()[index])


def _undeclared(tensor: Tensor, array: Array) -> str | None:
    """Axes whose size the signature fixes must have it."""
    fits = len(tensor.shape) == array.ndim and all(
        isinstance(axis, str) or axis == size for axis, size in zip(tensor.shape, array.shape, strict=True)
    )
    return None if fits else f"shape {list(array.shape)}, declared is [{', '.join(map(str, tensor.shape))}]"


def _finite(decibels: float) -> float | None:
    return decibels if math.isfinite(decibels) else None
