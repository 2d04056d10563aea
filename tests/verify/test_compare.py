"""Judging one case: declared shapes, float64 asked only in need, and what the record holds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from ingot.runtime.metrics import FLOOR_DB, NOISE_FACTOR
from ingot.signature import Signature, Tensor
from ingot.verify.compare import OutputAccuracy, judge
from ingot.verify.draw import Case

CASE = Case("user (batch=3)", "user", ())
ONE = Signature((), (Tensor("y", "float32", ("batch", 8)),), (), {}, {"tensor": 0})


def never() -> Any:
    raise AssertionError("float64 is asked only where the floor is missed")


def judge_one(expected: Any, got: Any, exact: Any = never, typical: Any = never) -> OutputAccuracy:
    (found,) = judge(ONE, CASE, [expected], [got], exact, typical)
    return found


def test_float64_is_not_computed_without_need(seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal((3, 8)).astype(np.float32)
    assert judge_one(y, y * np.float32(1 + 1e-6)).measure.holds
    assert not judge_one(y, np.full_like(y, np.nan)).measure.holds


def test_without_float64_the_floor_stays(seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal((3, 8)).astype(np.float32)
    found = judge_one(y, y * np.float32(1.001), exact=lambda: None)
    assert not found.measure.holds
    assert found.short_db == pytest.approx(40, abs=1)


def test_noise_lowers_the_recorded_floor(seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal((3, 8))
    found = judge_one((y * 1.001).astype("f4"), (y * 0.998).astype("f4"), exact=lambda: [y])
    assert found.measure.within_noise
    assert found.floor_db == pytest.approx(found.measure.worst_db - 20 * math.log10(NOISE_FACTOR))


def test_a_flip_in_float64_excuses_no_engine(seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal((3, 8)).astype(np.float32)
    found = judge_one(y, np.zeros_like(y), exact=lambda: [-y.astype(np.float64)], typical=lambda: [10.0])
    assert not found.measure.holds
    assert found.measure.undecided == 3


def test_the_typical_noise_is_asked_last() -> None:
    y = np.full((1, 8), 1e-3)
    arrays = (y.astype("f4"), (y + 1e-6).astype("f4"))
    assert judge_one(*arrays, exact=lambda: [y], typical=lambda: [5e-7]).measure.holds
    assert not judge_one(*arrays, exact=lambda: [y], typical=lambda: [5e-9]).measure.holds


def test_a_declared_shape_and_the_count_of_outputs_are_held() -> None:
    wide = np.ones((3, 9), np.float32)
    assert "declared is [batch, 8]" in str(judge_one(wide, wide))
    right = wide[:, :8]
    for got in ([], [right, right]):
        (found,) = judge(ONE, CASE, [right], got, never)
        assert f"gives {len(got)} outputs, declared are 1" in str(found)


def test_the_record_is_plain_json() -> None:
    y = np.ones((3, 8), np.float32)
    record = json.loads(json.dumps(judge_one(y, y.copy()).to_json(), allow_nan=False))
    assert record["sqnr_db"] is None
    assert record["needed_db"] == record["floor_db"] == FLOOR_DB["float32"]
    assert record["case"] == CASE.name
