"""fold_static_shapes: a size known at build time is not computed at run time."""

from __future__ import annotations

import pytest

from ingot.passes.fold_static_shapes import FoldStaticShapes

INDICES = """<int64 first = {0}, int64 last = {-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
    int64[1] four = {4}, int64[2] ends = {1, 2}, int64[1] flat = {-1},
    int64[1, 2] pair = {0, 2}>"""


@pytest.mark.parametrize(
    ("steps", "folded", "expected"),
    [
        ("r = Shape <start = 1, end = 2> (x)", "r", [4]),
        ("s = Shape(x)  r = Gather(s, last)", "r", 6),
        ("s = Shape(x)  r = Gather(s, ends)", "r", [4, 6]),
        ("s = Shape(x)  r = Slice(s, one, two)", "r", [4]),
        ("s = Shape(x)  t = Slice(s, one, four, zero, one)  r = Cast <to = 6> (t)", "t", [4, 6]),
        ("s = Shape(x)  t = Cast <to = 6> (s)  u = Identity(t)  r = Gather(u, one)", "r", [4]),
        ("s = Shape(x)  t = Gather(s, pair)  u = Reshape(t, flat)  r = Gather(u, last)", "r", 6),
        ("s = Shape(x)  t = Unsqueeze(s, zero)  u = Squeeze(t, zero)  r = Gather(u, last)", "r", 6),
        ("s = Shape(x)  t = Concat <axis = 0> (s, four)  r = Gather(t, flat)", "r", [4]),
        (
            "s = Shape(x)  t = Gather(s, last)  u = Gather(s, zero)  v = Unsqueeze(t, zero)"
            "  w = Concat <axis = 0> (u, v)  r = Gather(w, one)",
            "t",
            6,
        ),
        ("r = Size(z)", "r", 2),
    ],
)
def test_rewrites(rewrites, steps, folded, expected):
    checked = rewrites(
        FoldStaticShapes(),
        f"""g (float[B, 4, 6] x, float[2] z) => (float y) {INDICES}
        {{ {steps}  m = ReduceMax <keepdims = 0> (r)  y = Cast <to = 1> (m) }}""",
    )
    assert checked.constant(checked.model.graph.initializers[folded]) == expected


@pytest.mark.parametrize(
    ("steps", "because"),
    [
        ("r = Shape(x)", "a dim is dynamic"),
        ("s = Shape(x)  r = Gather(s, first)", "the dim that is taken is dynamic"),
        ("s = Shape(x)  r = Slice(s, zero, two)", "one of two is dynamic"),
        ("r = Size(x)", "a dim is dynamic"),
    ],
)
def test_declines(declines, steps, because):
    declines(FoldStaticShapes(), f"g (float[B, 4, 6] x) => (float y) {INDICES} {{ {steps}  y = Cast <to = 1> (r) }}")


def test_declines_an_unknown_shape(declines):
    declines(
        FoldStaticShapes(),
        "g (float[B] x, int64[K] t) => (int64[K] y) { a = Reshape(x, t)  s = Shape(a)  y = Neg(s) }",
        infer=False,
    )


def test_declines_a_graph_output(declines):
    declines(FoldStaticShapes(), "g (float[4] x) => (int64[1] y) { y = Shape(x) }", reason="output of the graph")
