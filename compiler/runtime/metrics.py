"""How close an array is to the one it should equal: the one table of tolerances by dtype, and what is held to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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

EXCUSE_DB: Mapping[str, float] = {"float64": 40.0, "float32": 40.0, "float16": 40.0, "bfloat16": 25.0}
"""The least SQNR of the reference itself against float64 at which its error is noise, and so an excuse.

Where float64 takes the other side of a tie or of a chaotic value, the difference is as large as the values and would
excuse any engine: two unrelated outputs are at -3 dB, opposite ones at -6. At 40 dB, NOISE_FACTOR times the noise is
still 28 dB, an error of 4%. Cancellation in float32 stays above: adding 1e4 to values around 1 leaves 71 dB. The 16-bit
dtypes get 10 dB below their floors, for a bound above the floor would excuse nothing.
"""

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
_BLOCK_ELEMENTS = 2**17
_SAMPLE_ELEMENTS = 2**16


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
    undecided      where it fails: rows, and outliers below the floor, in which float64 gives other values: rounding
                   decides them
    """

    holds: bool
    sqnr_db: float = math.inf
    row_sqnr_db: float = math.inf
    row: tuple[int, ...] = ()
    max_abs_error: float = 0.0
    needed_db: float | None = None
    mismatch: str | None = None
    within_noise: bool = False
    undecided: int = 0

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
    it is at most NOISE_FACTOR times the reference's, its own or that of the rows above EXCUSE_DB; `typical_noise` is
    the reference's on other inputs (`rms_noise`), for outputs of so few elements that here it may be small by chance.
    A row below EXCUSE_DB is excused nothing and excuses no other: it keeps the floor.
    """
    needed_db = FLOOR_DB.get(dtype) if floor_db is None else floor_db
    for array, who in ((expected, "the reference"), (got, "the engine")):
        if array.dtype.name != dtype and not (dtype == "bfloat16" and array.dtype == np.uint16):
            return Measure(False, needed_db=needed_db, mismatch=f"{who} gives {array.dtype.name}, declared is {dtype}")
    if expected.shape != got.shape:
        shapes = f"shape {list(got.shape)} where the reference gives {list(expected.shape)}"
        return Measure(False, needed_db=needed_db, mismatch=shapes)
    if expected.dtype.kind not in "biuf":
        instead = "torch.view_as_real gives its parts" if expected.dtype.kind == "c" else "only numbers and bools have"
        return Measure(False, mismatch=f"{dtype} has no measure of accuracy: {instead}")
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


def rms_noise(expected: Array, exact: Array, dtype: str) -> float:
    """The root mean square of what `expected` errs against `exact`, over the rows that are above EXCUSE_DB.

    Left out are outliers and elements that are not finite in both.
    """
    if expected.shape != exact.shape or not expected.size:
        return 0.0
    unit = _median_magnitude(expected, dtype)
    sums = _sum(expected, expected, exact, dtype, FLOOR_DB[dtype], unit)
    if isinstance(sums, Measure):
        return 0.0
    ordinary = np.hstack(sums.rows)
    plain = np.sqrt(ordinary[3]) <= _ratio(EXCUSE_DB[dtype]) * np.sqrt(ordinary[1])
    return _rms(ordinary[3], ordinary[0], plain) * unit


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


@dataclass(slots=True)
class _Sums:
    """Squares summed over blocks of rows, in units of the median magnitude.

    rows      [5, rows]: count, reference, got - reference, exact - reference, got - exact, over ordinary elements
    outliers  count and sum of squares of exact - reference, relative to each element, of those above EXCUSE_DB
    loud      [5, n], of outliers below the floor and each block's worst: row, column, the three errors, relative
    """

    rows: list[Array] = field(default_factory=list)
    loud: list[Array] = field(default_factory=list)
    outliers: list[tuple[int, float]] = field(default_factory=list)
    max_abs: float = 0.0


# float64 outputs may hold what no square of theirs can: the error is then infinite, and fails.
@np.errstate(over="ignore", divide="ignore")
def _measure_close(
    expected: Array, got: Array, dtype: str, needed_db: float, exact: Array | None, typical_noise: float
) -> Measure:
    unit = _median_magnitude(expected, dtype)
    sums = _sum(expected, got, exact, dtype, needed_db, unit)
    if isinstance(sums, Measure):
        return sums
    return _judge(sums, expected.shape[:-1], needed_db, _ratio(EXCUSE_DB[dtype]), unit, typical_noise / unit)


@np.errstate(over="ignore", divide="ignore")
def _sum(
    expected: Array, got: Array, exact: Array | None, dtype: str, needed_db: float, unit: float
) -> _Sums | Measure:
    """A Measure where non-finite values differ."""
    lead, last = (expected.shape[:-1], expected.shape[-1]) if expected.ndim else ((), 1)
    tables = [None if array is None else array.reshape(-1, last) for array in (expected, got, exact)]
    step = max(1, _BLOCK_ELEMENTS // last)
    sums = _Sums()
    for start in range(0, math.prod(lead), step):
        # Blocks: whole logits in float64 would not fit beside a large model, nor any cache.
        e, g, x = (None if table is None else _numbers(table[start : start + step], dtype) for table in tables)
        assert e is not None
        assert g is not None
        if x is None and _is_plain(e, g, unit, dtype):
            _add_plain(sums, e, g, unit)
            continue
        e, g = e.astype(np.float64), g.astype(np.float64)
        kinds = _kinds(e, dtype)
        wrong = np.argwhere(kinds != _kinds(g, dtype))
        if wrong.size:
            row, column = (int(i) for i in wrong[0])
            index = [*_index(start + row, lead), column] if expected.ndim else []
            text = f"{g[row, column]:g} at {index} where the reference gives {_KINDS[kinds[row, column]]}"
            return Measure(False, needed_db=needed_db, mismatch=f"{text} ({e[row, column]:g})")
        _add(sums, start, e, g, x, kinds == 0, unit, _ratio(needed_db) / QUIET, _ratio(EXCUSE_DB[dtype]))
    return sums


def _judge(sums: _Sums, lead: tuple[int, ...], needed_db: float, excuse: float, unit: float, typical: float) -> Measure:
    """`excuse` is EXCUSE_DB as a ratio, `typical` the typical noise in units."""
    ordinary = np.hstack(sums.rows)
    signal, error = (_rms(squares, ordinary[0]) for squares in ordinary[1:3])
    sqnr_db = float(_db(np.array(signal or QUIET), np.array(error if signal else sums.max_abs / unit)))
    per_row = np.sqrt(ordinary[1:] / np.maximum(ordinary[0], 1.0))
    size = np.maximum(per_row[0], QUIET * (signal or 1.0))
    row_db = _db(size, per_row[1])
    excused, noise = _excuses(ordinary, per_row, size * _ratio(needed_db), excuse, typical)
    lawful = excused & (per_row[3] <= NOISE_FACTOR * noise)
    loud = np.hstack(sums.loud) if sums.loud else np.zeros((5, 0))
    if loud.size:
        count, squares = (sum(parts) for parts in zip(*sums.outliers, strict=True))
        own = np.maximum(loud[3], math.sqrt(squares / max(count, 1)))
        row_db = np.append(row_db, _db(np.full(loud.shape[1], 1 / QUIET), loud[2]))
        excused = np.append(excused, loud[3] <= excuse)
        lawful = np.append(lawful, excused[-loud.shape[1] :] & (loud[4] <= NOISE_FACTOR * own))

    rows_hold = row_db >= needed_db
    failing = ~rows_hold & ~lawful
    worst = int(np.argmin(np.where(failing, row_db, np.inf) if failing.any() else row_db))
    whole_holds = sqnr_db >= needed_db
    # The whole of what noise may excuse: the other rows are held to the floor one by one.
    part = excused[: ordinary.shape[1]]
    pool = max(_rms(ordinary[3], ordinary[0], part), min(typical, excuse * signal))
    whole_lawful = part.any() and _rms(ordinary[4], ordinary[0], part) <= NOISE_FACTOR * pool
    holds = bool((whole_holds or whole_lawful) and not failing.any())
    rank = worst - ordinary.shape[1]
    return Measure(
        holds,
        sqnr_db,
        float(row_db[worst]),
        _index(worst, lead) if rank < 0 else (*_index(int(loud[0, rank]), lead), int(loud[1, rank])),
        sums.max_abs,
        needed_db,
        within_noise=holds and not (whole_holds and rows_hold.all()),
        undecided=0 if holds else int(np.count_nonzero(~excused)),
    )


def _excuses(ordinary: Array, per_row: Array, at_floor: Array, excuse: float, typical: float) -> tuple[Array, Array]:
    """For each row, whether its noise against float64 is an excuse, and how large that noise is or might have been.

    The pool is the noise of rows above `excuse` by themselves, or the typical one. Another row, quiet where the result
    cancels, is excused if it is as accurate as the floor asks, or no noisier than the pool allows; and the pool
    counts for no more than `excuse` of the larger of the row and the median row.
    """
    size, own = per_row[0], per_row[2]
    plain = own <= excuse * size
    pool = max(_rms(ordinary[3], ordinary[0], plain), typical)
    usual = float(np.median(size[size > 0])) if size.any() else 0.0
    excused = plain | (own <= at_floor) | (own <= NOISE_FACTOR * min(pool, excuse * usual))
    pooled = np.minimum(pool, excuse * np.maximum(size, usual))
    return excused, np.maximum(np.where(plain, own, 0.0), pooled)


def _rms(squares: Array, counts: Array, rows: Array | slice = slice(None)) -> float:
    return math.sqrt(squares[rows].sum() / max(counts[rows].sum(), 1.0))


def _ratio(decibels: float) -> float:
    """Error to signal."""
    return float(10.0 ** (-decibels / 20))


def _numbers(array: Array, dtype: str) -> Array:
    """In a dtype that numpy computes in quickly."""
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if dtype == "float16" else array


def _is_plain(e: Array, g: Array, unit: float, dtype: str) -> bool:
    """Whether a block has no outlier and nothing non-finite or saturated (NaN compares false)."""
    edge = _SATURATED * _LARGEST[dtype]
    most = min(OUTLIER * unit, edge)
    return bool(e.max() < most and e.min() > -most and g.max() < edge and g.min() > -edge)


def _add_plain(sums: _Sums, e: Array, g: Array, unit: float) -> None:
    difference = np.subtract(g, e, dtype=np.float64) / unit
    reference = np.divide(e, unit, dtype=np.float64)
    sums.max_abs = max(sums.max_abs, float(max(difference.max(), -difference.min())) * unit)
    error = np.einsum("ij,ij->i", difference, difference)
    rows = np.stack(
        [np.full(len(e), e.shape[1]), np.einsum("ij,ij->i", reference, reference), error, np.zeros(len(e)), error]
    )
    sums.rows.append(rows)


def _add(
    sums: _Sums,
    start: int,
    e: Array,
    g: Array,
    x: Array | None,
    finite: Array,
    unit: float,
    limit: float,
    excuse: float,
) -> None:
    """`limit` is the greatest relative error of an outlier at the floor, `excuse` the reference's own at EXCUSE_DB."""
    e, g = (np.where(finite, values, 0.0) for values in (e, g))
    x = e if x is None else np.where(finite & np.isfinite(x), x, e)
    loud = np.abs(e) > OUTLIER * unit
    parts = [e, g - e, x - e, g - x]
    sums.max_abs = max(sums.max_abs, float(np.abs(parts[1]).max()))
    quiet = [np.where(loud, 0.0, part) / unit for part in parts]
    sums.rows.append(np.stack([(finite & ~loud).sum(axis=1), *(np.einsum("ij,ij->i", part, part) for part in quiet)]))
    if loud.any():
        relative = np.stack([np.abs(part[loud] / e[loud]) for part in parts[1:]])
        noise = relative[1][relative[1] <= excuse]
        sums.outliers.append((noise.size, float(np.square(noise).sum())))
        kept = (relative[0] > limit) | (relative[0] == relative[0].max())
        row, column = np.nonzero(loud)
        sums.loud.append(np.vstack([row[kept] + start, column[kept], relative[:, kept]]))


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
    step, last = -(-flat.size // _SAMPLE_ELEMENTS), expected.shape[-1] if expected.ndim else 1
    while math.gcd(step, last) > 1:  # or only some of the columns would be seen
        step += 1
    values = np.abs(widen(flat[::step], dtype))
    values = values[(values > 0) & (values < _SATURATED * _LARGEST[dtype])]
    return float(np.median(values)) if values.size else 1.0


def _db(signal: Array, error: Array) -> Array:
    ratio: Array = np.divide(signal, error, out=np.full(signal.shape, np.inf), where=error > 0)
    decibels: Array = 20.0 * np.log10(ratio)
    return decibels


def _index(row: int, lead: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(row, lead)) if lead and row < math.prod(lead) else ()
