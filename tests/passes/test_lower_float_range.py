"""lower_float_range: floats that count by whole numbers are counted in integers."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.tensorrt.lowering.lower_float_range import LowerFloatRange

GRAPH = """g (float[B, S] x) => (float[n] y) {{
    shape = Shape <start = 1, end = 2> (x)  size = Squeeze(shape)  {cast}
    y = Range({bounds}) }}"""
WIDE = "n = Cast <to = 1> (size)"


def f32(value: float) -> np.ndarray:
    return np.array(value, np.float32)


@pytest.mark.parametrize(
    ("cast", "bounds", "start", "step"),
    [
        (WIDE, "a, n, d", 0, 1),
        (WIDE, "a, n, d", -3, 2),
        (WIDE, "n, a, d", -2, -1),
        ("small = Cast <to = 6> (size)  n = Cast <to = 1> (small)", "a, n, d", 0, 1),
    ],
)
def test_rewrites(rewrites, cast: str, bounds: str, start: int, step: int) -> None:
    checked = rewrites(LowerFloatRange(), GRAPH.format(cast=cast, bounds=bounds), a=f32(start), d=f32(step))
    assert checked.node("Range").outputs[0].dtype.name == "INT64"


@pytest.mark.parametrize(("start", "step"), [(0.5, 1), (0, 0.5), (2.0**24, 1)])
def test_declines_a_fraction(declines, start: float, step: float) -> None:
    graph = GRAPH.format(cast=WIDE, bounds="a, n, d")
    declines(LowerFloatRange(), graph, a=f32(start), d=f32(step), reason="fraction")


def test_declines_a_bound_that_is_computed_in_floats(declines) -> None:
    graph = GRAPH.format(cast=f"{WIDE}  half = Mul(n, d)", bounds="a, half, d")
    declines(LowerFloatRange(), graph, a=f32(0), d=f32(1), reason="in floats")


def test_declines_a_range_of_integers(declines) -> None:
    declines(
        LowerFloatRange(), "g (int64 x) => (int64[n] y) { y = Range(zero, x, one) }", zero=np.array(0), one=np.array(1)
    )
