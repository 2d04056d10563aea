"""What the targets on ONNX Runtime share at load: the place of the weights, and errors in words of our own."""

from __future__ import annotations

import os

import pytest

from ingot.backends.onnxruntime.session import LOCATION, LOCATION_BYTES, failed_run, location_of


def test_a_location_is_always_as_long_as_its_place() -> None:
    for name in ("a", "ab", "é", "n" * 255):
        location = location_of(name)
        assert len(location) == len(LOCATION) == LOCATION_BYTES
        assert os.path.normpath(os.fsdecode(location)) == name


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("std::bad_alloc", "memory ran out", "a smaller batch"),
        ("CUDA failure 2: out of memory ; GPU=0", "memory ran out", "a smaller batch"),
        ("Available memory of 5 is smaller than requested bytes of 9", "memory ran out", "a smaller batch"),
        ("cuDNN is unavailable for CUDA Execution Provider", "cuDNN does not load", "onnxruntime-gpu[cuda,cudnn]"),
        ("something else", "ONNX Runtime failed", "ingot verify FILE"),
    ],
)
def test_a_failed_run_says_what_happened_where_and_what_helps(text: str, what: str, fix: str) -> None:
    error = failed_run(RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {text}\nmore"), [(2, 3), ()])
    assert error.what == f"{what} while running: {text}"
    assert error.where == "inputs of [2, 3], []"
    assert fix in str(error.fix)
