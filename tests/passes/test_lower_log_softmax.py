"""lower_log_softmax: the logarithm of a small probability is finite, and the rest what it was to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.tensorrt.lowering.lower_log_softmax import LowerLogSoftmax
from ingot.ir.provenance import MODULE
from ingot.passes.contract import run_passes
from ingot.runtime.metrics import measure

GRAPH = "g ({dtype}[B, S, 7] x) => ({dtype}[B, S, 7] y) {{ y = LogSoftmax{axis}(x) }}"


def run(model: ir.Model, x: np.ndarray[Any, Any]) -> Any:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("axis", ["", " <axis = 1> ", " <axis = 0> "])
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_rewrites(build, seed: int, axis: str, dtype: str) -> None:
    text = GRAPH.format(dtype=dtype, axis=axis)
    before, after = build(text), build(text)
    (report,) = run_passes(after, [LowerLogSoftmax()])
    assert report.rewrites == 1
    assert all(MODULE in node.metadata_props for node in after.graph), "a node lost its origin"
    x = np.random.default_rng(seed).standard_normal((3, 4, 7)) * 4
    x = x.astype("float32" if dtype == "float" else dtype)
    assert measure(run(before, x), run(after, x), x.dtype.name).holds
    (again,) = run_passes(after, [LowerLogSoftmax()])
    assert again.rewrites == 0, "a second run changed something"


def test_the_logarithm_of_a_small_probability_is_finite(build) -> None:
    model = build(GRAPH.format(dtype="float", axis=""))
    run_passes(model, [LowerLogSoftmax()])
    x = np.zeros((1, 1, 7), np.float32)
    x[..., 3] = 500.0
    assert np.array_equal(run(model, x), x - 500.0)


def test_declines_an_old_operator_set(declines) -> None:
    declines(LowerLogSoftmax(), GRAPH.format(dtype="float", axis=""), opset=11, reason="too old")


def test_declines_another_operator(declines) -> None:
    declines(LowerLogSoftmax(), GRAPH.format(dtype="float", axis="").replace("LogSoftmax", "Softmax"))
