"""fuse_transposes: two Transposes in a row become one."""

from __future__ import annotations

import pytest

from ingot.passes.fuse_transposes import FuseTransposes


@pytest.mark.parametrize(
    ("output", "steps", "perm"),
    [
        ("float[4, B, 3]", "a = Transpose <perm = [1, 2, 0]> (x)  y = Transpose <perm = [1, 2, 0]> (a)", (2, 0, 1)),
        ("float[B, 3, 4]", "a = Transpose(x)  y = Transpose(a)", (0, 1, 2)),
        ("float[B, 4, 3]", "a = Transpose <perm = [2, 0, 1]> (x)  y = Transpose <perm = [1, 0, 2]> (a)", (0, 2, 1)),
    ],
)
def test_rewrites(rewrites, output, steps, perm):
    checked = rewrites(FuseTransposes(), f"g (float[B, 3, 4] x) => ({output} y) {{ {steps} }}")
    last = checked.model.graph.outputs[0].producer()
    assert last.inputs[0].name == "x"
    assert last.attributes["perm"].as_ints() == perm


def test_rewrites_three_in_a_row(rewrites):
    checked = rewrites(
        FuseTransposes(),
        """g (float[B, 3, 4] x) => (float[3, 4, B] y) { a = Transpose <perm = [1, 2, 0]> (x)
        b = Transpose <perm = [1, 2, 0]> (a)  y = Transpose <perm = [2, 0, 1]> (b) }""",
    )
    assert checked.model.graph.outputs[0].producer().inputs[0].name == "x"


def test_rewrites_two_that_cancel_to_nothing(rewrites):
    checked = rewrites(
        FuseTransposes(),
        """g (float[B, 3, 4] x) => (float[B, 3, 4] y) {
            a = Transpose <perm = [1, 2, 0]> (x)  b = Transpose <perm = [2, 0, 1]> (a)  y = Neg(b) }""",
    )
    assert checked.node("Neg").inputs[0].name == "x"


def test_declines_an_unknown_rank(declines):
    declines(
        FuseTransposes(),
        "g (float[B, 3] x, int64[K] t) => (float[3, B] y) { a = Reshape(x, t)  b = Transpose(a)  y = Transpose(b) }",
        infer=False,
        reason="rank is not known",
    )


def test_declines_a_transpose_alone(declines):
    declines(FuseTransposes(), "g (float[B, 3] x) => (float[3, B] y) { a = Relu(x)  y = Transpose(a) }")
