"""How close an array is to the one it should equal: the one table of tolerances by dtype, and what is held to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FLOOR_DB: Mapping[str, float] = {"float64": 200.0, "float32": 100.0, "float16": 50.0, "bfloat16": 35.0}
"""The least SQNR of each floating dtype; every other dtype must be equal.

float32 rounds at 150 dB: 100 leaves deep models their lawful reorderings and no wrong constant its place. float64's is
above what any float32 step on the way can reach.
"""

NOISE_FACTOR = 4.0
"""How many times the reference's own error against float64 an error may be, where that is wider than the floor."""

QUIET = 0.1
"""A row more than 20 dB below the whole output is held to the floor as if it were 20 dB below.

Rounding comes from the intermediate values, which do not shrink where a result cancels: an almost zero row has the
rounding of its neighbours. In float32 the error still allowed there is 120 dB below the whole, 16 roundings wide.
"""

OUTLIER = 1e4
"""An element this many times the median magnitude is a row of its own: one -1e9 in masked logits would otherwise
lift the energy so far that nothing else in the output could be wrong. A number alone has no neighbours that its
rounding averages with, so it counts 20 dB (QUIET) better than it is."""

_LARGEST = {
    "float64": float(np.finfo(np.float64).max),
    "float32": 3.4028235e38,
    "float16": 65504.0,
    "bfloat16": 3.39e38,
}
_SATURATED = 0.999
_KINDS = ("a number", "NaN", "+inf", "-inf", "the largest number", "the smallest number")
_BLOCK_ELEMENTS = 2**19
_SAMPLE_ELEMENTS = 2**20


@dataclass(frozen=True, slots=True)
class Measure:
    """One output held against its reference.

    sqnr_db        signal to noise of the whole output; inf: no difference
    row_sqnr_db    of the worst row, a row being a slice along the last axis
    row            that row's index over the leading axes (and the last axis, for an outlier)
    max_abs_error  over finite elements
    needed_db      the floor; None where the dtype must be equal
    mismatch       what is wrong among the things that must be exact: shape, dtype, integers, non-finite values
    within_noise   below the floor, and lawful because the reference's own error against float64 is as large
    """

    holds: bool
    sqnr_db: float = math.inf
    row_sqnr_db: float = math.inf
    row: tuple[int, ...] = ()
    max_abs_error: float = 0.0
    needed_db: float | None = None
    mismatch: str | None = None
    within_noise: bool = False

    @property
    def worst_db(self) -> float:
        """The lower of whole and row; -inf where something that must be exact is not."""
        return -math.inf if self.mismatch else min(self.sqnr_db, self.row_sqnr_db)


def measure(
    expected: Array,
    got: Array,
    dtype: str,
    *,
    exact: Array | None = None,
    typical_noise: float = 0.0,
    floor_db: float | None = None,
) -> Measure:
    """Holds `got` to `expected`, both of the declared `dtype` (bfloat16, which numpy lacks, as its bits in uint16).

    Floating dtypes: the table's floor (or `floor_db`, where a record says what was accepted) for the whole and for
    each row; NaN, +inf, -inf and saturated elements (finfo.min stands for -inf in many models) exactly where the
    reference has them. A reference of zeros has no energy: the largest absolute error is held against the floor as
    if the output were of size QUIET. Other dtypes: equal.

    `exact` is the same output computed in float64. With it an error above the floor holds too where, against `exact`,
    it is at most NOISE_FACTOR times the reference's; `typical_noise` is the rms of the reference's error on other
    inputs, for outputs of so few elements that here it may be small by chance.
    """
    needed_db = FLOOR_DB.get(dtype) if floor_db is None else floor_db
    for array, who in ((expected, "the reference"), (got, "the engine")):
        if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype == np.uint16):
            return Measure(False, needed_db=needed_db, mismatch=f"{who} gives {array.dtype.name}, declared is {dtype}")
    if expected.shape != got.shape:
        shapes = f"shape {list(got.shape)} where the reference gives {list(expected.shape)}"
        return Measure(False, needed_db=needed_db, mismatch=shapes)
    if expected.size == 0:
        return Measure(True, needed_db=needed_db)
    if needed_db is None or dtype not in FLOOR_DB:
        return _measure_equal(expected, got)
    if exact is not None and exact.shape != expected.shape:
        exact = None
    return _measure_close(expected, got, dtype, needed_db, exact, typical_noise)


def widen(array: Array, dtype: str) -> Array:
    """float64 values of an array of any floating dtype."""
    if dtype == "bfloat16" and array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def rms_error(expected: Array, exact: Array, dtype: str) -> float:
    """The root mean square of what `expected` errs against `exact`, over elements finite in both."""
    values = widen(expected, dtype)
    if values.shape != exact.shape:
        return 0.0
    finite = np.isfinite(values) & np.isfinite(exact) & (np.abs(values) < _SATURATED * _LARGEST[dtype])
    errors = (values - np.where(finite, exact, 0.0))[finite]
    return float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0


def _measure_equal(expected: Array, got: Array) -> Measure:
    different = expected != got
    if not different.any():
        return Measure(True)
    index = tuple(int(i) for i in np.argwhere(different)[0])
    text = f"{got[index]} at {list(index)} where the reference gives {expected[index]}"
    largest = np.abs(expected[different].astype(np.float64) - got[different].astype(np.float64)).max()
    return Measure(
        False, max_abs_error=float(largest), mismatch=f"{text} ({np.count_nonzero(different)} of {got.size} differ)"
    )


def _measure_close(
    expected: Array, got: Array, dtype: str, needed_db: float, exact: Array | None, typical_noise: float
) -> Measure:
    lead, last = (expected.shape[:-1], expected.shape[-1]) if expected.ndim else ((), 1)
    unit = _median_magnitude(expected, dtype)
    ordinary, outliers, places = [], [], []
    max_abs = 0.0
    for rows, (e, g, x) in _blocks([expected, got, exact], last, dtype):
        kinds = _kinds(e, dtype)
        wrong = np.argwhere(kinds != _kinds(g, dtype))
        if wrong.size:
            row, column = (int(i) for i in wrong[0])
            index = [*_index(rows.start + row, lead), column] if expected.ndim else []
            text = f"{g[row, column]:g} at {index} where the reference gives {_KINDS[kinds[row, column]]}"
            return Measure(False, needed_db=needed_db, mismatch=f"{text} ({e[row, column]:g})")
        sums, alone, where, largest = _sums(e, g, x, kinds == 0, unit)
        ordinary.append(sums)
        outliers.append(alone)
        places += [(rows.start + int(row), int(column)) for row, column in where]
        max_abs = max(max_abs, largest)
    typical = typical_noise / unit
    return _judge(np.hstack(ordinary), np.hstack(outliers), places, lead, needed_db, max_abs, unit, typical)


def _judge(
    ordinary: Array,
    outliers: Array,
    places: list[tuple[int, int]],
    lead: tuple[int, ...],
    needed_db: float,
    max_abs: float,
    unit: float,
    typical: float,
) -> Measure:
    """`ordinary` [5, rows] and `outliers` [5, elements] hold count, energy, error, noise and truth: sums of squares of
    reference, got - reference, exact - reference, got - exact, in units of the median magnitude."""
    whole = ordinary.sum(axis=1)
    count = max(whole[0], 1.0)
    signal, error, noise, truth = (math.sqrt(total / count) for total in whole[1:])
    noise = max(noise, typical)
    sqnr_db = float(_db(np.array(signal or QUIET), np.array(error if signal else max_abs / unit)))
    whole_holds = sqnr_db >= needed_db

    rows = np.hstack([ordinary, outliers])
    per_row = np.sqrt(rows[1:] / np.maximum(rows[0], 1.0))
    own_noise = np.full(rows.shape[1], noise)
    if places:
        own_noise[-len(places) :] = math.sqrt(outliers[3].mean())
    per_row_signal = np.maximum(per_row[0], QUIET * (signal or 1.0))
    per_row_signal[ordinary.shape[1] :] /= QUIET
    row_db = _db(per_row_signal, per_row[1])
    rows_hold = row_db >= needed_db
    lawful = per_row[3] <= NOISE_FACTOR * np.maximum(per_row[2], own_noise)

    failing = ~rows_hold & ~lawful
    worst = int(np.argmin(np.where(failing, row_db, np.inf) if failing.any() else row_db))
    at_floor = bool(whole_holds and rows_hold.all())
    holds = bool((whole_holds or truth <= NOISE_FACTOR * noise) and not failing.any())
    ordinary_rows = ordinary.shape[1]
    row = _index(worst, lead)
    if worst >= ordinary_rows:
        place = places[worst - ordinary_rows]
        row = (*_index(place[0], lead), place[1])
    return Measure(holds, sqnr_db, float(row_db[worst]), row, max_abs, needed_db, within_noise=holds and not at_floor)


def _blocks(arrays: list[Array | None], last: int, dtype: str) -> Iterator[tuple[range, list[Array]]]:
    """Blocks of rows, widened: whole logits in float64 would not fit beside a large model. None repeats the first."""
    tables = [array if array is None else array.reshape(-1, last) for array in arrays]
    first = tables[0]
    assert first is not None
    step = max(1, _BLOCK_ELEMENTS // last)
    for start in range(0, len(first), step):
        rows = range(start, min(start + step, len(first)))
        widened = [table if table is None else widen(table[start : rows.stop], dtype) for table in tables]
        yield rows, [widened[0] if table is None else table for table in widened]  # type: ignore[misc]


def _sums(e: Array, g: Array, x: Array, finite: Array, unit: float) -> tuple[Array, Array, Array, float]:
    e, g = (np.where(finite, values, 0.0) / unit for values in (e, g))
    x = np.where(finite & np.isfinite(x), x / unit, e)
    loud = np.abs(e) > OUTLIER
    squares = np.stack([finite.astype(np.float64), e * e, (g - e) ** 2, (x - e) ** 2, (g - x) ** 2])
    largest = float(np.abs(g - e).max()) * unit
    return np.where(loud, 0.0, squares).sum(axis=2), squares[:, loud], np.argwhere(loud), largest


def _kinds(values: Array, dtype: str) -> Array:
    """An index into _KINDS for each element."""
    kinds = np.zeros(values.shape, np.int8)
    edge = _SATURATED * _LARGEST[dtype]
    if np.abs(values).max() < edge:  # false for NaN too
        return kinds
    kinds[np.isnan(values)] = 1
    kinds[values >= edge] = 4
    kinds[values <= -edge] = 5
    kinds[values == np.inf] = 2
    kinds[values == -np.inf] = 3
    return kinds


def _median_magnitude(expected: Array, dtype: str) -> float:
    """Over the finite elements that are not zero (of a sample, where there are many); 1 where there are none."""
    flat = expected.reshape(-1)
    values = np.abs(widen(flat[:: -(-flat.size // _SAMPLE_ELEMENTS)], dtype))
    values = values[(values > 0) & (values < _SATURATED * _LARGEST[dtype])]
    return float(np.median(values)) if values.size else 1.0


def _db(signal: Array, error: Array) -> Array:
    ratio: Array = np.divide(signal, error, out=np.full(signal.shape, np.inf), where=error > 0)
    decibels: Array = 20.0 * np.log10(ratio)
    return decibels


def _index(row: int, lead: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(row, lead)) if lead and row < math.prod(lead) else ()
