"""What a file says about itself: as data, as a table, and whatever a strange record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingot.models.handmade import write_encoder
from ingot.runtime.open import open_engine
from ingot.runtime.report import size_text

RECORD: dict[str, Any] = {
    "model": {"name": "encoder", "kind": "module", "parameters": 22_565_376, "weights_bytes": 90_261_504},
    "steps": [{"name": "export", "seconds": 2.0}, {"name": "verify", "seconds": 3.5}],
    "passes": [
        {"name": "fold_constants", "rewrites": 3, "nodes_before": 412, "nodes_after": 300, "declined": []},
        {"name": "drop_unused", "rewrites": 0, "nodes_before": 300, "nodes_after": 300, "declined": []},
    ],
    "accuracy": {
        "reference": "PyTorch eager",
        "cases": [{"name": "user"}, {"name": "large"}],
        "outputs": [
            {"name": "embedding", "sqnr_db": 128.25, "row_sqnr_db": 120.5, "needed_db": 100.0, "within_noise": False},
            {"name": "ids", "sqnr_db": None, "row_sqnr_db": None, "needed_db": None},
        ],
    },
    "warnings": ["two weights hold NaN"],
}


def test_the_table_says_what_people_ask(tmp_path: Path, seed: int) -> None:
    with open_engine(write_encoder(tmp_path / "encoder.ingot", seed, record=RECORD)) as engine:
        report = engine.report
        size_bytes = engine.path.stat().st_size
    lines = str(report).splitlines()
    assert report["model"]["parameters"] == 22_565_376
    assert report["size_bytes"] == size_bytes
    assert dict(report)["verification"] == "full"
    for said in (
        "engine       encoder",
        f"size         {size_text(size_bytes)}, 90.3 MB of weights, 22,565,376 parameters",
        "accuracy     full, against PyTorch eager on 2 cases",
        "             embedding: 128.2 dB, worst row 120.5 dB (needs 100)",
        "             ids: equal",
        "graph        412 nodes, 300 after 1 of 2 passes found something",
        "compiled in  5.5 s (export 2.0, verify 3.5)",
        "warning      two weights hold NaN",
    ):
        assert said in lines, str(report)


@pytest.mark.parametrize("odd", [None, 7, "text", [1], {"a": [None]}, [[]], [{}], {"outputs": 3}, True])
def test_a_strange_record_breaks_nothing(tmp_path: Path, seed: int, odd: Any) -> None:
    record = dict.fromkeys(["model", "steps", "passes", "accuracy", "warnings", "versions"], odd)
    with open_engine(write_encoder(tmp_path / "encoder.ingot", seed, record=record)) as engine:
        assert "engine       encoder" in str(engine.report)
        assert engine.report["versions"]["ingot"]


def test_sizes_are_decimal() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 91_250_000, 2_500_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "91.2 MB",
        "2.50 GB",
    ]


def test_what_does_not_print_is_escaped(tmp_path: Path, seed: int) -> None:
    output = {"name": "\x1b[2Jnone\u202e"}
    record = {"warnings": ["\x1b[2J\x9b\ud800 größe"], "accuracy": {"outputs": [output]}, "\x1b[1m": 1}
    with open_engine(write_encoder(tmp_path / "encoder.ingot", seed, record=record)) as engine:
        shown, short = str(engine.report), repr(engine.report)
    assert r"warning      \x1b[2J\x9b\ud800 größe" in shown.splitlines()
    assert r"             \x1b[2Jnone\u202e: equal" in shown.splitlines()
    assert short.isprintable()
    assert all(line.isprintable() for line in shown.splitlines())


def test_a_number_beyond_floats_is_left_out(tmp_path: Path, seed: int) -> None:
    record = {"model": {"parameters": 10**400}}
    with open_engine(write_encoder(tmp_path / "encoder.ingot", seed, record=record)) as engine:
        assert "parameters" not in str(engine.report)
