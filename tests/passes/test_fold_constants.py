"""fold_constants: what depends on constants alone is computed at build time."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.passes.fold_constants import FoldConstants


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ("Constant <value = float[2] {1, 2}> ()", [1.0, 2.0]),
        ("Constant <value_float = 3.0> ()", 3.0),
        ("Constant <value_floats = [3.0]> ()", [3.0]),
    ],
)
def test_constant_nodes_become_initializers(rewrites, constant, expected):
    checked = rewrites(FoldConstants(), f"g (float[B, 1] x) => (float[B, K] y) {{ c = {constant}  y = Add(x, c) }}")
    assert checked.operators == ["Add"]
    assert checked.constant(checked.model.graph.initializers["c"]) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("a = Range(zero, three, one)  c = Cast <to: int = 1> (a)", [0.0, 1.0, 2.0]),
        ("a = Div(minus, two)  c = Cast <to: int = 1> (a)", -3.0),
        ("a = Neg(half)  c = Where(yes, half, a)", 0.5),
        ("a = Expand(half, shape)  b = Mul(a, a)  c = Sqrt(b)", [[0.5, 0.5]]),
        ("c = Transpose(column)", [[1.0, 2.0]]),
        ("a, c = Split <axis: int = 0, num_outputs: int = 2> (pair)", [2.0]),
        ("a = ConstantOfShape <value = int64[1] {7}> (shape)  c = Cast <to: int = 1> (a)", [[7.0, 7.0]]),
    ],
)
def test_rewrites(rewrites, steps, expected):
    checked = rewrites(
        FoldConstants(),
        f"""g (float[B, 1] x) => (float[B, K] y) <int64 zero = {{0}}, int64 three = {{3}}, int64 one = {{1}},
        int64 minus = {{-7}}, int64 two = {{2}}, float half = {{0.5}}, bool yes = {{1}}, int64[2] shape = {{1, 2}},
        float[2] pair = {{1, 2}}, float[2, 1] column = {{1, 2}}> {{ {steps}  y = Add(x, c) }}""",
    )
    assert checked.operators == ["Add"]
    assert checked.constant(checked.model.graph.initializers["c"]) == expected


def test_the_opset_of_the_model_decides_what_an_operator_means(rewrites):
    # Squeeze took its axes as an attribute up to opset 12.
    checked = rewrites(
        FoldConstants(),
        "g (float[B] x) => (float[B] y) <float[1, 1] w = {2}> { c = Squeeze <axes = [0, 1]> (w)  y = Mul(x, c) }",
        opset=12,
    )
    assert checked.operators == ["Mul"]


def test_rewrites_inside_a_body(rewrites):
    checked = rewrites(
        FoldConstants(),
        """g (bool c, float[B] x) => (float[B] y) {
            y = If (c) <then_branch = t () => (float[B] p) { k = Constant <value_float = 2.0> ()  p = Mul(x, k) },
                        else_branch = e () => (float[B] q) { k = Constant <value_float = 3.0> ()  q = Mul(x, k) }>
        }""",
    )
    assert checked.report.rewrites == 2


def test_declines_a_graph_output(declines):
    declines(FoldConstants(), "g (float[B] x) => (float y) { y = Constant <value_float = 2.0> () }")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("Exp(half)", "round this operator differently"),
        ("Cast <to: int = 6> (huge)", "cannot hold"),
        ("Cast <to: int = 7> (nan)", "cannot hold"),
        ("Div(one, zero)", "divides by zero"),
        ("ConstantOfShape <value = float[1] {0}> (large)", "its result would have"),
        ("Gather(pair, three)", "its inputs do not fit"),
        ("Identity(word)", "may not agree on it for bfloat16"),
    ],
)
def test_declines(declines, expression, reason):
    initializers = """<float half = {0.5}, float huge = {3e9}, int64 one = {1}, int64 zero = {0},
        int64[2] large = {1000, 1000}, float[2] pair = {1, 2}, int64 three = {3}, bfloat16 word = {1}>"""
    steps = f"a = {expression}  b = Cast <to: int = 1> (a)  y = Add(x, b)"
    text = f"g (float[B] x) => (float[B] y) {initializers} {{ {steps} }}"
    declines(FoldConstants(), text, reason=reason, nan=np.array(np.nan, np.float32))


def test_rewrites_without_known_shapes(rewrites):
    # torch's table gives a convolution without a bias one of zeros, in a size that it computes.
    checked = rewrites(
        FoldConstants(),
        """g (float[B] x) => (float[B] y) <float half = {0.5}, int64[1] one = {1}>
        { a = Neg(half)  b = Expand(a, one)  y = Add(x, b) }""",
        infer=False,
    )
    assert checked.operators == ["Add"]


def test_declines_what_the_graph_says_otherwise(declines):
    declines(
        FoldConstants(),
        "g (float[2] x) => (float[2] y) <float[1] half = {0.5}, float[2] a> { a = Neg(half)  y = Add(x, a) }",
        infer=False,
        reason="the graph says otherwise",
    )


def test_what_only_renames_axes_is_not_copied(rewrites, weight):
    w = weight((200, 300))
    checked = rewrites(
        FoldConstants(),
        """g (float[B, 300] x) => (float[B, 200] y) <int64[2] turned = {300, 200}>
        { v = Reshape(w, turned)  y = MatMul(x, v) }""",
        w=w,
    )
    assert not checked.model.graph.initializers["v"].const_value.numpy().flags.owndata


def test_declines_a_large_transpose(declines, weight):
    declines(
        FoldConstants(),
        "g (float[B, 30] x) => (float[B, 20] y) { v = Transpose(w)  y = MatMul(x, v) }",
        w=weight((20, 30)),
    )


def test_declines_large_inputs(declines):
    declines(
        FoldConstants(),
        "g (float[B] x) => (float[B] y) <int64 zero = {0}> { a = Gather(w, zero)  y = Add(x, a) }",
        w=np.zeros((16 << 18) + 1, np.float32),
    )


# The gates of an LSTM in another order, which is how torch's table writes its weights.
GATES = """a = Slice(w, zero, half, zero)  b = Slice(w, half, all, zero)  r = Concat <axis = 0> (b, a)"""
BOUNDS = "<int64[1] zero = {0}, int64[1] half = {100}, int64[1] all = {200}>"


def test_rewrites_a_weight_in_pieces(rewrites, weight):
    checked = rewrites(
        FoldConstants(),
        f"g (float[B, 200] x) => (float[B, 300] y) {BOUNDS} {{ {GATES}  y = MatMul(x, r) }}",
        w=weight((200, 300)),
    )
    assert checked.operators == ["MatMul"]


def test_declines_a_weight_that_would_be_stored_twice(declines, weight):
    declines(
        FoldConstants(),
        f"""g (float[B, 200] x) => (float[B, 300] y) {BOUNDS}
        {{ {GATES}  p = MatMul(x, r)  q = MatMul(x, w)  y = Add(p, q) }}""",
        w=weight((200, 300)),
        reason="w is also read as it is",
    )


def test_declines_an_initializer_that_the_caller_may_override(declines):
    declines(FoldConstants(), "g (float[B] x, float k) => (float[B] y) <float k = {2}> { a = Neg(k)  y = Add(x, a) }")
