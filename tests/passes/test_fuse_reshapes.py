"""fuse_reshapes: a chain of operators that rename axes becomes one Reshape."""

from __future__ import annotations

import pytest

from ingot.passes.fuse_reshapes import FuseReshapes


@pytest.mark.parametrize(
    ("output", "steps", "target"),
    [
        ("float[B, 1, 1, 6]", "a = Unsqueeze(x, one)  y = Unsqueeze(a, one)", [0, 1, 1, 6]),
        ("float[B, 2, 3]", "a = Unsqueeze(x, one)  b = Squeeze(a, one)  y = Reshape(b, split)", [0, 2, 3]),
        ("float[B, 6]", "a = Reshape(x, split)  y = Flatten(a)", [0, 6]),
        ("float[1, 6, B]", "a = Transpose(x)  b = Flatten(a)  y = Unsqueeze(b, zero)", [1, 6, -1]),
    ],
)
def test_rewrites(rewrites, output, steps, target):
    checked = rewrites(
        FuseReshapes(),
        f"""g (float[B, 6] x) => ({output} y) <int64[1] zero = {{0}}, int64[1] one = {{1}},
        int64[3] split = {{0, 2, 3}}> {{ {steps} }}""",
    )
    last = checked.model.graph.outputs[0].producer()
    assert last.op_type == "Reshape"
    assert checked.constant(last.inputs[1]) == target
    assert last.inputs[0].producer() is None or last.inputs[0].producer().op_type == "Transpose"


def test_rewrites_a_chain_that_goes_back_to_nothing(rewrites):
    checked = rewrites(
        FuseReshapes(),
        """g (float[B, S] x) => (float[B, S] y) <int64[2] ends = {0, 3}> {
            a = Unsqueeze(x, ends)  b = Squeeze(a, ends)  y = Neg(b) }""",
    )
    assert checked.node("Neg").inputs[0].name == "x"


def test_declines_two_dims_without_a_place(declines):
    declines(
        FuseReshapes(),
        "g (float[B, S] x) => (float[1, 1, B, S] y) <int64[1] zero = {0}>"
        "{ a = Unsqueeze(x, zero)  y = Unsqueeze(a, zero) }",
        reason="no constant takes",
    )


def test_declines_a_single_reshape(declines):
    declines(FuseReshapes(), "g (float[B] x) => (float[B, 1] y) <int64[1] one = {1}> { y = Unsqueeze(x, one) }")


def test_declines_when_something_else_lies_between(declines):
    declines(
        FuseReshapes(),
        "g (float[B] x) => (float[B, 1, 1] y) <int64[1] one = {1}>"
        "{ a = Unsqueeze(x, one)  b = Relu(a)  y = Unsqueeze(b, one) }",
    )
