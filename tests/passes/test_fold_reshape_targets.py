"""fold_reshape_targets: the target of a reshape is a constant where the shapes say enough."""

from __future__ import annotations

import pytest

from ingot.passes.fold_reshape_targets import FoldReshapeTargets

# The way torch's exporter writes x.view(B, S, 2, 3).
VIEW = """
    b = Shape <start = 0, end = 1> (x)  s = Shape <start = 1, end = 2> (x)
    t = Concat <axis = 0> (b, s, heads)
"""


def test_a_view_keeps_its_named_dims(rewrites):
    checked = rewrites(
        FoldReshapeTargets(),
        f"""g (float[B, S, 6] x) => (float[B, S, 2, 3] y) <int64[2] heads = {{2, -1}}, float[B, S, 2, 3] a>
        {{ {VIEW} a = Reshape <allowzero = 1> (x, t)  y = Relu(a) }}""",
    )
    reshape = checked.node("Reshape")
    assert checked.constant(reshape.inputs[1]) == [0, 0, 2, 3]
    assert "allowzero" not in reshape.attributes


def test_a_dim_without_a_place_is_inferred(rewrites):
    checked = rewrites(
        FoldReshapeTargets(),
        """g (float[B, S] x) => (float[S, 1, B] y) <int64[1] zero = {0}, int64[1] one = {1}> {
            a = Transpose(x)  n = Shape(a)  s = Gather(n, zero)  b = Gather(n, one)
            t = Concat <axis = 0> (s, one, b)  y = Reshape(a, t) }""",
    )
    assert checked.constant(checked.node("Reshape").inputs[1]) == [0, 1, -1]


def test_one_constant_serves_equal_targets(rewrites):
    checked = rewrites(
        FoldReshapeTargets(),
        """g (float[B, 4] x) => (float[B, 2, 2] y) <int64[2] two = {2, 2}> { b = Shape <start = 0, end = 1> (x)
        t = Concat <axis = 0> (b, two)  p = Reshape(x, t)  n = Neg(x)  q = Reshape(n, t)  y = Add(p, q) }""",
    )
    assert checked.report.rewrites == 2
    assert list(checked.model.graph.initializers) == ["two", "shape_0_2_2"]


def test_expand(rewrites):
    checked = rewrites(
        FoldReshapeTargets(),
        """g (float[B, 1] x) => (float[B, 4] y) <int64[1] four = {4}> { b = Shape <start = 0, end = 1> (x)
        t = Concat <axis = 0> (b, four)  y = Expand(x, t) }""",
    )
    assert checked.constant(checked.node("Expand").inputs[1]) == [1, 4]


def test_rewrites_inside_a_body(rewrites):
    checked = rewrites(
        FoldReshapeTargets(),
        """g (bool c, float[B, 4] x) => (float[B, 2, 2] y) <int64[2] two = {2, 2}> {
            b = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (b, two)
            y = If (c) <then_branch = p () => (float[B, 2, 2] u) { u = Reshape(x, t) },
                        else_branch = q () => (float[B, 2, 2] v) { n = Neg(x)  v = Reshape(n, t) }>
        }""",
    )
    assert checked.report.rewrites == 2


DECLINED = {
    "two dims without a place": (
        "float[B, S] x",
        "float[S, B] y",
        "s = Shape(x)  t = Gather(s, swapped)  y = Reshape(x, t)",
    ),
    "a computed size": (
        "float[B, S] x, int64[2] t",
        "float[P, Q] y",
        "y = Reshape(x, t)",
    ),
    "an Expand that makes a named dim": (
        "float[B, S] x, float[1] z",
        "float[B] y",
        "t = Shape <end = 1> (x)  y = Expand(z, t)",
    ),
}


@pytest.mark.parametrize(("inputs", "output", "steps"), DECLINED.values(), ids=DECLINED)
def test_declines(declines, inputs, output, steps):
    declines(
        FoldReshapeTargets(),
        f"g ({inputs}) => ({output}) <int64[2] swapped = {{1, 0}}> {{ {steps} }}",
        reason="no constant takes",
    )


def test_declines_a_minus_one_beside_what_may_be_zero(declines):
    # Z is the length of a slice, which no input brings: at zero, Reshape could not infer the other dim.
    declines(
        FoldReshapeTargets(),
        """g (float[B, S] x, int64[1] n) => (float[Z, 1, S] y)
            <int64[1] zero = {0}, int64[1] one = {1}, float[Z, S] a> {
            a = Slice(x, zero, n, zero)  k = Shape <end = 1> (a)  s = Shape <start = 1> (a)
            t = Concat <axis = 0> (k, one, s)  y = Reshape(a, t) }""",
        reason="no constant takes",
    )


def test_declines_what_is_constant_already(declines):
    declines(
        FoldReshapeTargets(),
        "g (float[B, 4] x) => (float[B, 2, 2] y) <int64[3] t = {0, 2, 2}> { y = Reshape(x, t) }",
    )


def test_declines_a_static_size_of_zero(declines):
    declines(
        FoldReshapeTargets(),
        "g (float[B, 0] x) => (float[0, 3] y) <int64[2] t = {0, 3}> { y = Reshape <allowzero = 1> (x, t) }",
    )
