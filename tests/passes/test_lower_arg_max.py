"""lower_arg_max: of several largest values the first is taken, or the last where asked."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ingot.backends.tensorrt.lowering.lower_arg_max import LowerArgMax
from ingot.passes.contract import run_passes

GRAPH = "g ({dtype}[B, S, 5] x) => (int64[a, b, c] y) {{ y = {operator}<axis = {axis}{more}>(x) }}"


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("more", ["", ", select_last_index = 1"])
@pytest.mark.parametrize("dtype", ["int64", "float", "float16"])
def test_rewrites(rewrites, operator: str, axis: int, more: str, dtype: str) -> None:
    """The integers that are drawn are 0 and 1, so that most rows have equal values."""
    checked = rewrites(LowerArgMax(), GRAPH.format(dtype=dtype, operator=operator, axis=axis, more=more))
    assert "TopK" not in checked.operators
    assert operator not in checked.operators


def test_rewrites_one_axis_without_keeping_it(rewrites) -> None:
    rewrites(LowerArgMax(), "g (int64[S] x) => (int64 y) { y = ArgMax<keepdims = 0>(x) }")


def test_a_row_of_nan_stays_inside(build) -> None:
    import onnxruntime

    model = build("g (float[2, S] x) => (int64[2] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }")
    run_passes(model, [LowerArgMax()])
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, {"x": np.array([[np.nan] * 3, [1, 7, 7]], np.float32)})
    assert found.tolist() == [2, 1]


@pytest.mark.parametrize("opset", [13, 15, 18])
def test_rewrites_in_an_older_operator_set(rewrites, opset: int) -> None:
    rewrites(LowerArgMax(), GRAPH.format(dtype="float", operator="ArgMax", axis=-1, more=""), opset=opset)


@pytest.mark.parametrize(("opset", "axis"), [(12, -1), (14, 1)])
def test_declines_an_old_operator_set(declines, opset: int, axis: int) -> None:
    graph = GRAPH.format(dtype="float", operator="ArgMax", axis=axis, more="")
    declines(LowerArgMax(), graph, opset=opset, reason="too old")


def test_declines_an_unknown_rank(build) -> None:
    text = GRAPH.format(dtype="float", operator="ArgMax", axis=1, more="")
    model = build(text, infer=False)
    model.graph.inputs[0].shape = None
    (report,) = run_passes(model, [LowerArgMax()])
    assert report.rewrites == 0
    assert any("number of its axes" in reason for reason in map(str, report.declined))
