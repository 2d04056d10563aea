"""The tolerance table and the measure: what must be rejected is, and what is lawful holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ingot.runtime.metrics import EXCUSE_DB, FLOOR_DB, NOISE_FACTOR, Array, measure, rms_noise, widen


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def bits(values: Array) -> Array:
    """bfloat16 by truncation."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def noisy(expected: Array, decibels: float, rng: np.random.Generator) -> Array:
    """`expected` with an error of exactly so many dB, the same in every row."""
    signs = rng.choice([-1.0, 1.0], expected.shape)
    size = np.sqrt(np.mean(expected**2, axis=-1, keepdims=True)) * 10 ** (-decibels / 20)
    return np.asarray(expected + signs * size)


def test_equal_arrays_differ_by_nothing(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    found = measure(x, x.copy(), "float32")
    assert found.holds
    assert found.sqnr_db == found.row_sqnr_db == math.inf
    assert found.max_abs_error == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_floor_of_a_dtype_is_where_it_says(dtype: str, rng: np.random.Generator) -> None:
    expected = rng.standard_normal((6, 64)).astype(dtype).astype(np.float64)
    below, above = (noisy(expected, FLOOR_DB[dtype] + step, rng).astype(dtype) for step in (-2, 2))
    assert measure(expected.astype(dtype), above, dtype).holds
    found = measure(expected.astype(dtype), below, dtype)
    assert not found.holds
    assert found.sqnr_db == pytest.approx(FLOOR_DB[dtype] - 2, abs=0.7)


def test_bfloat16_travels_as_bits(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((6, 64)).astype(np.float32)
    rounded = widen(bits(expected), "bfloat16")
    assert np.abs(rounded - expected).max() <= np.abs(expected).max() / 128
    assert measure(bits(expected), bits(expected * np.float32(1.004)), "bfloat16").holds
    assert not measure(bits(expected), bits(expected * np.float32(1.04)), "bfloat16").holds


def test_one_wrong_row_is_found_and_named(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((4, 50, 8)).astype(np.float32)
    got = expected.copy()
    got[2, 31] *= np.float32(1 + 3e-5)
    found = measure(expected, got, "float32")
    assert found.sqnr_db > 100
    assert not found.holds
    assert found.row == (2, 31)


def test_a_quiet_row_may_have_the_rounding_of_its_neighbours_and_no_more(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((20, 16)).astype(np.float32)
    expected[7] *= np.float32(1e-4)
    lawful, wrong = expected.copy(), expected.copy()
    lawful[7] += np.float32(2e-7)
    wrong[7] = -wrong[7]
    assert measure(expected, lawful, "float32").holds
    found = measure(expected, wrong, "float32")
    assert not found.holds
    assert found.row == (7,)


def test_a_masked_score_does_not_hide_the_others(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((4, 30)).astype(np.float32)
    expected[:, ::3] = -1e9
    got = expected.copy()
    got[:, 1] *= 2
    assert not measure(expected, got, "float32").holds
    one_step = expected.copy()
    one_step[:, ::3] = np.nextafter(np.float32(-1e9), np.float32(0))
    assert measure(expected, one_step, "float32").holds
    far = expected.copy()
    far[2, 3] = -1.001e9
    found = measure(expected, far, "float32")
    assert not found.holds
    assert found.row == (2, 3)


@pytest.mark.parametrize(
    ("value", "instead"),
    [(np.nan, 0.5), (0.5, np.nan), (np.inf, -np.inf), (np.inf, np.nan), (-np.inf, -1e30), (np.finfo("f4").min, -1e30)],
)
def test_non_finite_elements_are_exact(value: float, instead: float, rng: np.random.Generator) -> None:
    expected = rng.standard_normal((3, 5)).astype(np.float32)
    expected[1, 2] = value
    assert measure(expected, expected.copy(), "float32").holds
    got = expected.copy()
    got[1, 2] = instead
    found = measure(expected, got, "float32")
    assert not found.holds
    assert "[1, 2]" in str(found.mismatch)


def test_saturated_elements_do_not_hide_the_others(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((3, 50)).astype(np.float32)
    expected[:, 10:] = np.finfo(np.float32).min
    got = expected.copy()
    got[1, 3] += 1
    assert not measure(expected, got, "float32").holds


def test_a_reference_of_zeros_is_held_by_the_largest_error() -> None:
    zeros = np.zeros((100, 50), np.float32)
    tiny, large = zeros.copy(), zeros.copy()
    tiny[3, 4], large[3, 4] = 9e-7, 1.1e-6
    assert measure(zeros, zeros.copy(), "float32").holds
    assert measure(zeros, tiny, "float32").holds
    assert not measure(zeros, large, "float32").holds


def test_a_row_of_zeros_among_others(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((8, 16)).astype(np.float32)
    expected[5] = 0
    lawful, wrong = expected.copy(), expected.copy()
    lawful[5], wrong[5] = 1e-7, 1e-4
    assert measure(expected, lawful, "float32").holds
    assert not measure(expected, wrong, "float32").holds


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers_and_bools_are_equal(dtype: str, rng: np.random.Generator) -> None:
    expected = rng.integers(0, 2, (4, 6)).astype(dtype)
    got = expected.copy()
    assert measure(expected, got, dtype).holds
    got[3, 1] = 1 - got[3, 1]
    found = measure(expected, got, dtype)
    assert not found.holds
    assert "[3, 1]" in str(found.mismatch)
    assert "1 of 24" in str(found.mismatch)


def test_shape_and_dtype_are_exact() -> None:
    x = np.ones((2, 3), np.float32)
    assert "shape [3, 2]" in str(measure(x, x.T, "float32").mismatch)
    assert "float64" in str(measure(x, x.astype(np.float64), "float32").mismatch)
    assert "the reference gives float32" in str(measure(x, x, "float16").mismatch)


@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (4, 0), (3, 1)])
def test_every_rank_and_no_elements(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    expected = np.asarray(rng.standard_normal(shape) + 5, dtype=np.float32)
    assert measure(expected, expected.copy(), "float32").holds
    if expected.size:
        assert not measure(expected, expected * np.float32(1.001), "float32").holds


def test_an_error_within_the_references_own_noise_is_lawful(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((40, 32))
    expected = noisy(exact, 80, rng).astype(np.float32)
    lawful = noisy(exact, 80 - 20 * math.log10(0.8 * NOISE_FACTOR), rng).astype(np.float32)
    wrong = noisy(exact, 80 - 20 * math.log10(1.2 * NOISE_FACTOR), rng).astype(np.float32)
    assert not measure(expected, lawful, "float32").holds
    found = measure(expected, lawful, "float32", exact=exact)
    assert found.holds
    assert found.within_noise
    assert not measure(expected, wrong, "float32", exact=exact).holds
    row = expected.copy()
    row[17] *= np.float32(1.01)
    found = measure(expected, row, "float32", exact=exact)
    assert not found.holds
    assert found.row == (17,)


def test_noise_that_is_small_by_chance_takes_the_typical() -> None:
    expected, exact = np.array([[1e-3]], np.float32), np.array([[1e-3 + 1e-12]])
    got = expected + np.float32(1e-6)
    assert not measure(expected, got, "float32", exact=exact).holds
    assert measure(expected, got, "float32", exact=exact, typical_noise=5e-7).holds
    assert not measure(expected, got, "float32", exact=exact, typical_noise=1e-7).holds


def test_a_recorded_floor_replaces_the_table(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((6, 64)).astype(np.float32)
    got = noisy(expected, 85, rng).astype(np.float32)
    assert not measure(expected, got, "float32").holds
    assert measure(expected, got, "float32", floor_db=80.0).holds


def test_large_outputs_are_measured_to_the_last_row(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((700, 1000)).astype(np.float32)
    got = expected.copy()
    got[699, 999] += 1
    found = measure(expected, got, "float32")
    assert not found.holds
    assert found.row == (699,)
    assert found.max_abs_error == pytest.approx(1, rel=1e-5)


def test_rms_noise_leaves_out_what_is_not_finite() -> None:
    expected = np.array([1.0, np.inf, np.nan, 3.0], np.float32)
    exact = np.array([1.0 + 2**-9, np.inf, 2.0, 3.0 - 2**-9])
    assert rms_noise(expected, exact, "float32") == pytest.approx(2**-9)


def test_rms_noise_leaves_out_rows_and_outliers_that_float64_decides_otherwise(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((40, 32))
    expected = noisy(exact, 80, rng)
    plain = rms_noise(expected.astype(np.float32), exact, "float32")
    expected[7], exact[9, 3], expected[9, 3] = -exact[7], -1e9, -1.1e9
    assert rms_noise(expected.astype(np.float32), exact, "float32") == pytest.approx(plain, rel=0.05)


def test_an_output_that_float64_decides_otherwise_excuses_nothing(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((64, 16)).astype(np.float32)
    exact = -expected.astype(np.float64)
    for wrong in (np.zeros_like(expected), -expected, expected * np.float32(1.001)):
        found = measure(expected, wrong, "float32", exact=exact, typical_noise=10.0)
        assert not found.holds
        assert found.undecided == 64
    found = measure(expected, expected.copy(), "float32", exact=exact)
    assert found.holds
    assert not found.within_noise
    assert found.undecided == 0


@pytest.mark.parametrize("shape", [(), (16,), (64, 1), (64, 16), (4, 16, 8)])
def test_zeros_are_not_excused_by_a_flip_at_any_rank(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    expected = np.asarray(rng.standard_normal(shape) + 3, np.float32)
    assert not measure(expected, np.zeros_like(expected), "float32", exact=-expected.astype(np.float64)).holds


def test_one_flipped_row_frees_neither_itself_nor_another(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((64, 16))
    expected = noisy(exact, 80, rng).astype(np.float32)
    engine = noisy(exact, 78, rng).astype(np.float32)
    exact[0] = -exact[0]
    engine[0] = expected[0]
    found = measure(expected, engine, "float32", exact=exact)
    assert found.holds  # the flipped row agrees with eager, the others are within their noise
    assert found.within_noise
    for row, instead in ((5, 0.0), (5, -1.0), (0, 0.0), (0, -1.0), (0, 1.0001)):
        wrong = engine.copy()
        wrong[row] *= np.float32(instead)
        found = measure(expected, wrong, "float32", exact=exact)
        assert not found.holds
        assert found.row == (row,)
        assert found.undecided == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_noise_is_an_excuse_down_to_its_bound(dtype: str, rng: np.random.Generator) -> None:
    exact = rng.standard_normal((40, 64))
    cast = bits if dtype == "bfloat16" else lambda values: values.astype(dtype)
    for step, holds in ((3, True), (-3, False)):
        eager, engine = (cast(noisy(exact, EXCUSE_DB[dtype] + step, rng)) for _ in range(2))
        assert measure(eager, engine, dtype, exact=exact).holds == holds


def test_typical_noise_is_an_excuse_no_larger_than_the_bound_of_a_row(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((8, 16)).astype(np.float32)
    exact = expected.astype(np.float64)
    wrong = expected.copy()
    wrong[5] *= np.float32(0.9)
    assert not measure(expected, wrong, "float32", exact=exact, typical_noise=10.0).holds


def test_a_loud_row_lends_its_noise_to_no_other(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((64, 16))
    exact[3] *= 3000
    expected, engine = (noisy(exact, 60, rng).astype(np.float32) for _ in range(2))
    assert measure(expected, engine, "float32", exact=exact).holds
    engine[5] = -engine[5]
    found = measure(expected, engine, "float32", exact=exact)
    assert not found.holds
    assert found.row == (5,)


def test_an_almost_zero_row_has_the_noise_of_its_neighbours_and_no_flip(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((40, 32))
    exact[7] *= 1e-4
    size = 1e-4 * rng.choice([-1.0, 1.0], (2, *exact.shape))
    expected, engine = (exact + size).astype(np.float32)
    assert measure(expected, engine, "float32", exact=exact).holds
    quieter, wrong = exact + 1e-3 * (expected - exact), exact + 1e-3 * (engine - exact)
    exact[7], wrong[7] = -quieter[7], 0
    found = measure(quieter.astype(np.float32), wrong.astype(np.float32), "float32", exact=exact)
    assert not found.holds
    assert found.row == (7,)


def test_a_flipped_outlier_excuses_no_outlier(rng: np.random.Generator) -> None:
    expected = rng.standard_normal((4, 30)).astype(np.float32)
    expected[:, ::3] = -1e9
    exact, engine = expected.astype(np.float64), expected.copy()
    exact[0, 0], engine[2, 3] = 0, -2e9
    found = measure(expected, engine, "float32", exact=exact)
    assert not found.holds
    assert found.row == (2, 3)
    engine[2, 3], engine[0, 0] = -1e9, -2e9
    found = measure(expected, engine, "float32", exact=exact)
    assert not found.holds
    assert found.row == (0, 0)
    assert found.undecided == 1
