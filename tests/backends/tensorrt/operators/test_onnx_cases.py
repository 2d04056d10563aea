"""Onnx's own node tests that the parser claims: a sample of each run, drawn by the seed; `python -m benchmarks
onnx_cases` runs all 1,579 of them."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping

import pytest

from benchmarks import onnx_cases

pytest.importorskip("tensorrt_rtx", reason="the parser is TensorRT-RTX's")

SAMPLE = 100
"""Of each run: with the loading about half a minute. A fault in 1 of 100 cases is found in 2 of 3 runs."""

SILENT = {
    "test_triu": "upper is not written down",
    "test_gru_batchwise": "layout = 1",
    "test_lstm_batchwise": "layout = 1",
    "test_simple_rnn_batchwise": "layout = 1",
    "test_attention_bidirectional_window": "window",
    "test_quantizelinear": "zero point",
    "test_averagepool_2d_ceil_last_window_starts_on_pad": "begins in the padding",
    "test_maxpool_2d_ceil_output_size_reduce_by_one": "begins in the padding",
    "test_scatter_elements_with_negative_indices": "may be negative",
    "test_spacetodepth_crd_mode_example": "mode = CRD",
    "test_cast_no_saturate_FLOAT_to_FLOAT8E4M3FN": "saturate = 0",
    "test_max_float64": "float64",
}
"""Node tests that the parser takes, and computes otherwise, or in another dtype."""


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, str]:
    names = sorted(onnx_cases.cases())
    drawn = random.Random(int(os.environ["INGOT_SEED"])).sample(names, SAMPLE)
    return onnx_cases.verdicts(sorted({*drawn, *SILENT}))


def test_the_parser_claims_most_of_onnx() -> None:
    assert len(onnx_cases.cases()) > 1500


def test_every_case_is_refused_first_or_builds_and_is_right(verdicts: Mapping[str, str]) -> None:
    kinds, wrong = onnx_cases.summary(dict(verdicts))
    assert wrong == {}
    assert kinds["right"] > SAMPLE // 3
    assert kinds["refused"] > SAMPLE // 4


@pytest.mark.parametrize("name", SILENT)
def test_a_silent_fault_among_them_is_refused_for_its_reason_or_lowered_right(
    verdicts: Mapping[str, str], name: str
) -> None:
    if verdicts[name] != "right":
        assert verdicts[name].startswith("refused: ")
        assert SILENT[name] in verdicts[name]


def test_a_case_that_ends_its_child_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["test_abs", "test_relu", "test_exp"]
    written = onnx_cases._write

    def write(folder: object, case: onnx_cases.Case, lowered: object) -> None:
        written(folder, case, lowered)
        if case.name == "test_relu":
            (folder / case.name / "about.json").write_text("not JSON")

    monkeypatch.setattr(onnx_cases, "_write", write)
    found = onnx_cases.verdicts(names)
    assert found["test_abs"] == found["test_exp"] == "right"
    assert onnx_cases.ABORTED in found["test_relu"]
