"""`ingot inspect`, `ingot verify` and `ingot env`: what they show, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from ingot.backends import needs
from ingot.file.header import Target
from ingot.models.handmade import encoder_vectors, write_encoder, write_text_encoder

Ingot = Callable[..., Result]


def test_inspect_shows_what_is_in_the_file(run_ingot: Ingot, engine_file: Path) -> None:
    result = run_ingot("inspect", engine_file, "--passes")
    assert result.exit_code == 0, result.output
    for said in (
        "engine       encoder",
        "  ids   int64  [batch, sequence]  0..49",
        "  mask  int64  [batch, sequence]  mask 0 or 1",
        "  embedding  float32  [batch, 8]",
        "  sequence  1..64",
        "engine(ids=…, mask=…)",
        "{embedding: embedding}",
        "  cpu  needs onnxruntime >=1.31",
        "weights.bin",
        "  fold_constants",
        "  fold_constants: Mul x: why",
    ):
        assert said in result.output, said


def test_inspect_shows_the_text_settings(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    path = write_text_encoder(tmp_path / "e.ingot", seed, default_prompt="query")
    shown = run_ingot("inspect", path).output
    assert "at most 12 tokens; gives embedding" in shown
    assert "prompt query: 'w0 w1 ' (default)" in shown


def test_inspect_as_json_is_header_and_record(run_ingot: Ingot, engine_file: Path) -> None:
    told = json.loads(run_ingot("inspect", engine_file, "--json").output)
    assert told["header"]["name"] == "encoder"
    assert told["record"]["passes"][0]["nodes_after"] == 9


def test_verify_replays_the_vectors(run_ingot: Ingot, engine_file: Path) -> None:
    result = run_ingot("verify", engine_file)
    assert result.exit_code == 0, result.output
    assert "holds" in result.output
    told = json.loads(run_ingot("verify", engine_file, "--json").output)
    assert told["holds"]
    assert told["selftest"][0]["needed_db"] == 100
    assert told["model"] is None


def test_verify_exits_with_1_where_the_engine_fails(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    wrong = encoder_vectors(seed)
    wrong["user/out/embedding"] += np.float32(0.01)
    path = write_encoder(tmp_path / "e.ingot", seed, selftest=wrong)
    result = run_ingot("verify", path)
    assert result.exit_code == 1
    assert "FAILS too inaccurate" in result.output
    assert not json.loads(run_ingot("verify", path, "--json").output)["holds"]


def test_verify_without_vectors_asks_for_the_model(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    result = run_ingot("verify", write_encoder(tmp_path / "e.ingot", seed))
    assert result.exit_code == 2
    assert "ingot verify FILE MODEL" in result.stderr


def test_env_tells_what_is_here(run_ingot: Ingot) -> None:
    result = run_ingot("env")
    assert result.exit_code == 0, result.output
    told = json.loads(run_ingot("env", "--json").output)
    assert told["targets"]["cpu"]["run"]["works"]
    assert told["installed"]["onnxruntime"] in result.output
    assert told["threads"]["chosen"] == min(told["threads"]["limits"].values())


@pytest.mark.parametrize("target", ["cpu", "cuda", "tensorrt", "tensorrt-rtx"])
def test_coverage_is_told_without_a_gpu(run_ingot: Ingot, target: str) -> None:
    rows = json.loads(run_ingot("env", "--coverage", target, "--json").output)
    operators = [row["operator"] for row in rows]
    assert {"MatMul", "Conv", "Softmax"} <= set(operators)
    assert all(row["how"] for row in rows)
    told = run_ingot("env", "--coverage", target).output
    assert "MatMul" in told
    assert "\nfrom: " in told, "people must know what the table was made from"


def test_env_says_what_a_target_lacks(run_ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "installed_version", {}.get)
    monkeypatch.setattr("ingot.cli.env.installed_version", {}.get)
    monkeypatch.setenv("INGOT_NUM_THREADS", "3")
    result = run_ingot("env")
    assert "pip install 'ingot-compiler[cpu]'" in result.output
    assert "pip install 'ingot-compiler[compile]'" in result.output
    assert "threads    3 (INGOT_NUM_THREADS 3)" in result.output
    targets = json.loads(run_ingot("env", "--json").output)["targets"]
    assert not targets["cpu"]["run"]["works"]
    assert not targets["cpu"]["build"]["works"]


def test_inspect_shows_a_strangers_file_without_its_control_characters(
    run_ingot: Ingot, tmp_path: Path, seed: int
) -> None:
    strange = "\x1b[2J\x9b\ud800"
    target = Target("cpu", {}, {}, {strange: strange})
    steps = [{"name": strange, "declined": 5}, {"name": "x", "declined": [strange]}]
    record = {"warnings": [strange], "passes": steps}
    path = write_encoder(tmp_path / "e.ingot", seed, before=(target,), record=record)
    for more in ((), ("--passes",), ("--json",)):
        result = run_ingot("inspect", path, *more)
        assert result.exit_code == 0, result.output
        assert all(line.isprintable() for line in result.output.splitlines())
    assert json.loads(result.output)["record"] == record


def test_verify_draws_from_seeds_of_at_least_0(run_ingot: Ingot, engine_file: Path) -> None:
    assert run_ingot("verify", engine_file, "--seed", -1).exit_code == 2
