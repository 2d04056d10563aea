"""`ingot check`: the answer, the exit code, what to type, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result

from ingot.file.header import Target
from ingot.file.read import read_header
from ingot.models.handmade import ENCODER, ENCODER_SIGNATURE, write_encoder, write_engine

Ingot = Callable[..., Result]

ELSEWHERE = Target("hal9000", {}, {})


def test_a_file_that_runs_exits_with_0(run_ingot: Ingot, engine_file: Path) -> None:
    result = run_ingot("check", engine_file)
    assert result.exit_code == 0
    assert "encoder, runs here" in result.output
    assert "  cpu: runs" in result.output


def test_a_file_that_does_not_exits_with_1_and_says_what_to_type(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "e.ingot", seed, before=(ELSEWHERE,))
    result = run_ingot("check", path, "--target", "hal9000")
    assert result.exit_code == 1
    assert "does not run here" in result.output
    assert "try:  pip install --upgrade ingot-compiler" in result.output
    assert run_ingot("check", path).exit_code == 0
    assert run_ingot("check", path, "--target", "cuda").exit_code == 2


def test_json_says_the_same(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "e.ingot", seed, before=(ELSEWHERE,), verification="off")
    told = json.loads(run_ingot("check", path, "--json").output)
    assert (told["name"], told["runs"], told["verification"]) == ("e", True, "off")
    assert [(target["name"], target["runs"]) for target in told["targets"]] == [("hal9000", False), ("cpu", True)]
    assert told["targets"][0]["unmet"][0]["fix"]
    assert "allow_unverified=True" in run_ingot("check", path).output


def test_full_reads_the_weights_too(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    table = np.random.default_rng(seed).standard_normal((2**18, 8)).astype(np.float32)
    path = write_engine(tmp_path / "large.ingot", ENCODER, ENCODER_SIGNATURE, {"table": table})
    assert "every digest holds" in run_ingot("check", path, "--full").output
    offset = read_header(path).members["weights.bin"].offset
    with path.open("r+b") as stream:
        stream.seek(offset + 5_000_000)
        stream.write(b"\0\1\2\3")
    assert run_ingot("check", path).exit_code == 0
    damaged = run_ingot("check", path, "--full")
    assert damaged.exit_code == 1
    assert "weights.bin" in damaged.stderr


def test_bad_files(run_ingot: Ingot, tmp_path: Path) -> None:
    (tmp_path / "text.ingot").write_text("hello")
    for path, code in ((tmp_path / "missing", 2), (tmp_path, 2), (tmp_path / "text.ingot", 1)):
        result = run_ingot("check", path)
        assert result.exit_code == code
        assert result.stderr.startswith("Error: ")
        assert result.stdout == ""
