"""The self-test vectors of a file, replayed: they hold where the engine computes them, and fail where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import FormatError, UsageError
from ingot.file.read import AGAIN
from ingot.models.handmade import encoder_vectors, write_encoder
from ingot.runtime.metrics import FLOOR_DB
from ingot.runtime.open import open_engine
from ingot.runtime.selftest import LEAST_FLOOR_DB, SelfTest, limited_floor, run_selftest
from ingot.signature import Tensor

Array = np.ndarray[Any, Any]


def replay(path: Path) -> list[SelfTest]:
    with open_engine(path, threads=1) as engine:
        return run_selftest(engine)


def test_an_engine_holds_to_its_own_vectors(tmp_path: Path, seed: int) -> None:
    (result,) = replay(write_encoder(tmp_path / "e.ingot", seed, selftest=encoder_vectors(seed)))
    assert (result.case, result.output) == ("user", "embedding")
    assert result.measure.holds
    assert result.measure.needed_db == 100


def test_a_wrong_number_fails(tmp_path: Path, seed: int) -> None:
    wrong = encoder_vectors(seed)
    # Against the largest, as one that is drawn near 0 hides in the noise of the others.
    wrong["user/out/embedding"][1, 3] += 0.001 * np.abs(wrong["user/out/embedding"]).max()
    (result,) = replay(write_encoder(tmp_path / "e.ingot", seed, selftest=wrong))
    assert not result.measure.holds


def test_the_record_says_what_was_accepted(tmp_path: Path, seed: int) -> None:
    off = encoder_vectors(seed)
    off["user/out/embedding"] *= np.float32(1 + 1e-4)
    record = {"accuracy": {"outputs": [{"name": "embedding", "floor_db": 70.0}]}}
    (result,) = replay(write_encoder(tmp_path / "e.ingot", seed, selftest=off, record=record))
    assert result.measure.holds
    assert result.measure.needed_db == 70
    for odd in ({"accuracy": []}, {"accuracy": {"outputs": [{"name": "embedding", "floor_db": "70"}]}}):
        (result,) = replay(write_encoder(tmp_path / "e.ingot", seed, selftest=off, record=odd))
        assert not result.measure.holds


def test_a_file_without_vectors_says_what_to_type(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="no self-test vectors") as caught:
        replay(write_encoder(tmp_path / "e.ingot", seed))
    assert caught.value.fix == "ingot verify FILE MODEL"


@pytest.mark.parametrize(
    "change",
    [
        {"user/in/other": np.zeros(1)},
        {"user/in/ids": np.zeros((2, 3), np.int32)},
        {"user/elsewhere/ids": np.zeros(1)},
        {"\x1b[2J/in/ids": np.zeros(1)},
        {"nothing": np.zeros(1)},
        {"second/in/ids": np.zeros((1, 1), np.int64)},
        {"user/in/ids": np.array([[1, "a"]], dtype="U1")},
    ],
)
def test_vectors_that_do_not_fit_the_signature_are_format_errors(
    tmp_path: Path, seed: int, change: dict[str, Array]
) -> None:
    path = write_encoder(tmp_path / "e.ingot", seed, selftest=encoder_vectors(seed) | change)
    with pytest.raises(FormatError, match="self-test") as caught:
        replay(path)
    assert (caught.value.where, caught.value.fix) == (str(path), AGAIN)


@pytest.mark.parametrize("floor_db", [-1e6, 0, 39.9, -(10**400)])
def test_a_record_cannot_make_every_engine_hold(tmp_path: Path, seed: int, floor_db: float) -> None:
    wrong = encoder_vectors(seed)
    wrong["user/out/embedding"] *= np.float32(1.05)
    record = {"accuracy": {"outputs": [{"name": "embedding", "floor_db": floor_db}]}}
    (result,) = replay(write_encoder(tmp_path / "e.ingot", seed, selftest=wrong, record=record))
    assert not result.measure.holds
    assert (result.measure.needed_db or 0) >= LEAST_FLOOR_DB


def test_a_floor_of_the_table_below_the_limit_stays() -> None:
    assert limited_floor({"y": 35.0}, Tensor("y", "bfloat16", (1,))) == FLOOR_DB["bfloat16"]
    assert limited_floor({"y": 1.0}, Tensor("y", "bfloat16", (1,))) == FLOOR_DB["bfloat16"]
    assert limited_floor({"y": 1.0}, Tensor("y", "float16", (1,))) == LEAST_FLOOR_DB
    assert limited_floor({}, Tensor("y", "float16", (1,))) is None
