"""lower_integer_bounds: integers beyond 32 bits are compared in all of their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.onnxruntime.lower_integer_bounds import LowerIntegerBounds
from ingot.passes.contract import run_passes

GRAPH = "g ({dtype}[n] x, {dtype} l, {dtype} h) => ({dtype}[n] y) {{ y = {call} }}"


def run(model: ir.Model, given: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, given)[0]


@pytest.mark.parametrize(
    ("call", "low", "high"),
    [
        ("Clip(x, l, h)", -9, 2**40),
        ("Clip(x, l, h)", 5, 2),  # the upper bound wins
        ("Clip(x, l)", 3, 0),
        ("Clip(x, , h)", 0, 7),
        ("Clip(x)", 0, 0),
        ("Max(x, l)", 3, 0),
        ("Max(l, x)", 3, 0),
        ("Min(x, h)", 0, 7),
    ],
)
def test_rewrites(build, seed: int, call: str, low: int, high: int) -> None:
    model = build(GRAPH.format(dtype="int64", call=call))
    (report,) = run_passes(model, [LowerIntegerBounds()])
    assert report.rewrites == 1
    x = np.random.default_rng(seed).integers(-(2**62), 2**62, 50)
    x[:3] = 2**31, 2**33 + 1, 4
    expected = x
    if "l" in call.removeprefix("Clip"):
        expected = np.maximum(expected, low)
    if "h" in call:
        expected = np.minimum(expected, high)
    given = {"x": x, "l": np.array(low, np.int64), "h": np.array(high, np.int64)}
    assert np.array_equal(run(model, given), expected)
    (again,) = run_passes(model, [LowerIntegerBounds()])
    assert again.rewrites == 0, "a second run changed something"


@pytest.mark.parametrize("call", ["Clip(x, l, h)", "Max(x, l)"])
def test_onnx_runtime_still_needs_it(build, call: str) -> None:
    """Fails once ONNX Runtime compares all bits: the pass can go then."""
    model = build(GRAPH.format(dtype="int64", call=call))
    given = {"x": np.full(64, 2**31), "l": np.array(3), "h": np.array(2**40)}
    assert (run(model, given) != 2**31).any()


@pytest.mark.parametrize("dtype", ["float", "int32"])
def test_declines_another_dtype(declines, dtype: str) -> None:
    declines(LowerIntegerBounds(), GRAPH.format(dtype=dtype, call="Clip(x, l, h)"))


def test_declines_three_inputs(declines) -> None:
    declines(LowerIntegerBounds(), GRAPH.format(dtype="int64", call="Max(x, l, h)"), reason="3 inputs")


def test_declines_another_operator(declines) -> None:
    declines(LowerIntegerBounds(), GRAPH.format(dtype="int64", call="Add(x, l)"))
