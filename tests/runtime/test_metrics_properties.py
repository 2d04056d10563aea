"""What the measure owes to every array: scale, order and blocks change nothing, and no element may be wrong unseen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ingot.runtime import metrics
from ingot.runtime.metrics import FLOOR_DB, OUTLIER, Array, measure

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=9)
SEEDS = st.integers(0, 2**32)
EVERY = st.sampled_from(["float16", "float32", "float64"]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
quick = settings(max_examples=150, deadline=None)


def normal(shape: tuple[int, ...], seed: int) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def disturbed(expected: Array, decibels: float, seed: int) -> Array:
    noise = np.random.default_rng(seed + 1).standard_normal(expected.shape)
    return np.asarray(expected + noise * 10 ** (-decibels / 20)).astype(np.float32)


@given(x=EVERY)
@quick
def test_whatever_equals_itself_holds(x: Array) -> None:
    found = measure(x, x.copy(), x.dtype.name)
    assert found.holds
    assert found.worst_db == math.inf
    assert found.max_abs_error == 0


@given(
    pair=st.sampled_from(["float32", "float64"]).flatmap(
        lambda dtype: SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(dtype, shape), hnp.arrays(dtype, shape)))
    )
)
@quick
def test_no_two_arrays_make_it_stumble(pair: tuple[Array, Array]) -> None:
    """Infinities, denormals and the largest numbers: a verdict, no warning, and never a NaN in it."""
    found = measure(*pair, pair[0].dtype.name)
    assert not math.isnan(found.sqnr_db)
    assert not math.isnan(found.row_sqnr_db)
    assert found.holds or found.mismatch or found.worst_db < 200


@given(shape=SHAPES, seed=SEEDS, power=st.integers(-60, 60), decibels=st.integers(80, 120))
@quick
def test_scale_changes_nothing(shape: tuple[int, ...], seed: int, power: int, decibels: int) -> None:
    expected, scale = normal(shape, seed), np.float32(2.0**power)
    got = disturbed(expected, decibels, seed)
    plain, scaled = measure(expected, got, "float32"), measure(expected * scale, got * scale, "float32")
    assert scaled.sqnr_db == pytest.approx(plain.sqnr_db)
    assert scaled.row_sqnr_db == pytest.approx(plain.row_sqnr_db)
    assert scaled.holds == plain.holds


@given(rows=st.integers(1, 12), seed=SEEDS, decibels=st.integers(80, 120))
@quick
def test_the_order_of_rows_changes_only_which_is_named(rows: int, seed: int, decibels: int) -> None:
    expected = normal((rows, 7), seed)
    got = disturbed(expected, decibels, seed)
    order = np.random.default_rng(seed).permutation(rows)
    plain, moved = measure(expected, got, "float32"), measure(expected[order], got[order], "float32")
    assert moved.sqnr_db == pytest.approx(plain.sqnr_db)
    assert moved.row_sqnr_db == pytest.approx(plain.row_sqnr_db)
    assert order[moved.row[0]] == plain.row[0]


@given(shape=SHAPES, seed=SEEDS, decibels=st.integers(80, 120), block=st.integers(1, 40))
@quick
def test_blocks_and_float64_change_no_decibel(shape: tuple[int, ...], seed: int, decibels: int, block: int) -> None:
    """The quick way and the one that looks at each element agree, whatever is taken at once."""
    expected = normal(shape, seed)
    got = disturbed(expected, decibels, seed)
    plain = measure(expected, got, "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK_ELEMENTS", block)
        for exact in (None, expected.astype(np.float64)):
            other = measure(expected, got, "float32", exact=exact)
            assert other.sqnr_db == pytest.approx(plain.sqnr_db)
            assert other.row_sqnr_db == pytest.approx(plain.row_sqnr_db)
            assert other.max_abs_error == pytest.approx(plain.max_abs_error)
            assert (other.row, other.holds) == (plain.row, plain.holds)


@given(rows=st.integers(1, 12), last=st.integers(1, 40), seed=SEEDS, data=st.data())
@quick
def test_one_wrong_element_is_seen_wherever_it_is(rows: int, last: int, seed: int, data: st.DataObject) -> None:
    expected = normal((rows, last), seed)
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, last - 1))
    rms = max(float(np.sqrt(np.mean(expected[row] ** 2))), float(np.sqrt(np.mean(expected**2))))
    got = expected.copy()
    got[row, column] += np.float32(2.0 * rms * math.sqrt(last) * 10 ** (-FLOOR_DB["float32"] / 20))
    found = measure(expected, got, "float32")
    assert not found.holds
    assert found.row[0] == row


@given(seed=SEEDS, share=st.floats(0.05, 0.45), power=st.integers(5, 30), wrong=st.booleans())
@quick
def test_outliers_neither_hide_nor_excuse(seed: int, share: float, power: int, wrong: bool) -> None:
    """Many masked scores at once, as in a vocabulary that is half forbidden."""
    rng = np.random.default_rng(seed)
    expected = normal((20, 50), seed)
    masked = rng.random(expected.shape) < share
    masked[3, 4], masked[5, 6] = True, False
    expected[masked] = -(10.0**power)
    got = expected.copy()
    place = (3, 4) if wrong else (5, 6)
    got[place] = got[place] * np.float32(1.001) + np.float32(0 if wrong else 0.01)
    found = measure(expected, got, "float32")
    assert not found.holds
    assert found.row == (place if wrong else place[:1])
    assert 10.0**power > OUTLIER


@given(shape=SHAPES, seed=SEEDS, exact=st.data(), factor=st.sampled_from([-1.0, 0.0, 0.9, 1.1]))
@quick
def test_nothing_that_float64_gives_excuses_a_wrong_output(
    shape: tuple[int, ...], seed: int, exact: st.DataObject, factor: float
) -> None:
    expected = normal(shape, seed)
    kind = exact.draw(st.sampled_from([-1.0, 0.0, 0.9, 1.0, factor, None]))
    wide = exact.draw(hnp.arrays("float64", shape)) if kind is None else expected.astype(np.float64) * kind
    assert not measure(expected, expected * np.float32(factor), "float32", exact=wide, typical_noise=1e3).holds


@given(x=st.sampled_from(["int64", "int8", "uint8", "bool"]).flatmap(lambda d: hnp.arrays(d, SHAPES)), data=st.data())
@quick
def test_one_other_integer_is_seen(x: Any, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, x.size - 1))
    got = x.copy()
    got.reshape(-1)[index] ^= 1
    found = measure(x, got, x.dtype.name)
    assert not found.holds
    assert found.worst_db == -math.inf
