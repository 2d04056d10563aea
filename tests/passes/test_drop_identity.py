"""drop_identity: an operator that gives back its input is removed."""

from __future__ import annotations

import pytest

from ingot.passes.drop_identity import DropIdentity

GIVES_BACK = {
    "identity": "Identity(x)",
    "dropout": "Dropout(x)",
    "dropout, inference said": "Dropout(x, half, no)",
    "cast": "Cast <to: int = 1> (x)",
    "transpose": "Transpose <perm: ints = [0, 1]> (x)",
    "reshape": "Reshape(x, keep)",
    "expand": "Expand(x, ones)",
    "slice": "Slice(x, zero, last, one, one)",
    "slice, steps implied": "Slice(x, zero, last, one)",
    "concat": "Concat <axis: int = 0> (x)",
    "times one": "Mul(x, onef)",
    "one times": "Mul(onef, x)",
    "over one": "Div(x, onef)",
}
CONSTANTS = """<float half = {0.5}, bool no = {0}, int64[2] keep = {0, 4}, int64[2] ones = {1, 1}, int64[1] zero = {0},
    int64[1] last = {9223372036854775807}, int64[1] one = {1}, float onef = {1.0}>"""


@pytest.mark.parametrize("expression", GIVES_BACK.values(), ids=GIVES_BACK)
def test_rewrites(rewrites, expression):
    checked = rewrites(
        DropIdentity(), f"g (float[B, 4] x) => (float[B, 4] y) {CONSTANTS} {{ a = {expression}  y = Relu(a) }}"
    )
    assert checked.operators == ["Relu"]


@pytest.mark.parametrize(
    ("dtype", "expression"),
    [("bool", "And(x, yes)"), ("bool", "Or(no, x)"), ("int64", "Add(x, zero)"), ("int64", "Sub(x, zero)")],
)
def test_rewrites_other_dtypes(rewrites, dtype, expression):
    checked = rewrites(
        DropIdentity(),
        f"g ({dtype}[B] x, {dtype}[B] z) => (bool[B] y) <bool yes = {{1}}, bool no = {{0}}, int64 zero = {{0}}>"
        f"{{ a = {expression}  y = Equal(a, z) }}",
    )
    assert checked.operators == ["Equal"]


def test_a_graph_output_keeps_its_name(rewrites):
    checked = rewrites(DropIdentity(), "g (float[B] x) => (float[B] y) { a = Relu(x)  y = Identity(a) }")
    assert checked.operators == ["Relu"]
    assert checked.model.graph.outputs[0].name == "y"


def test_a_body_may_read_what_stays_outside(rewrites):
    checked = rewrites(
        DropIdentity(),
        """g (bool c, float[B] x) => (float[B] y) {
            a = Relu(x)
            y = If (c) <then_branch = t () => (float[B] p) { b = Identity(a)  p = Neg(b) },
                        else_branch = e () => (float[B] q) { q = Identity(a) }>
        }""",
    )
    assert checked.report.rewrites == 1
    assert checked.node("Neg").inputs[0].name == "a"


DECLINED = {
    "the rank grows": "Reshape(x, three)",
    "another dtype": "Cast <to: int = 11> (x)",
    "another order": "Transpose <perm: ints = [1, 0]> (x)",
    "backwards": "Slice(x, end, first, one, back)",
    "a part": "Slice(x, zero, two, one, one)",
    "x + 0.0 turns -0.0": "Add(x, zerof)",
    "1 / x": "Div(onef, x)",
    "the constant has a larger shape": "Mul(x, many)",
    "two of them": "Concat <axis: int = 0> (x, x)",
}


@pytest.mark.parametrize("expression", DECLINED.values(), ids=DECLINED)
def test_declines(declines, expression):
    declines(
        DropIdentity(),
        f"""g (float[B, 4] x) => (y) <int64[3] three = {{1, -1, 4}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
        int64[1] two = {{2}}, int64[1] end = {{-1}}, int64[1] back = {{-1}}, int64[1] first = {{-9}},
        float zerof = {{0}}, float onef = {{1}}, float[2, 1, 1] many = {{1, 1}}> {{ a = {expression}  y = Neg(a) }}""",
    )


def test_declines_between_an_input_and_an_output(declines):
    declines(DropIdentity(), "g (float[B] x) => (float[B] y) { y = Identity(x) }", reason="names the graph shows")


def test_declines_a_dropout_whose_mask_is_read(declines):
    declines(DropIdentity(), "g (float[B] x) => (float[B] y, bool[B] m) { a, m = Dropout(x)  y = Relu(a) }")


def test_declines_dropout_in_training(declines):
    declines(
        DropIdentity(),
        "g (float[B] x, bool t) => (float[B] y) <float half = {0.5}> { a = Dropout(x, half, t)  y = Relu(a) }",
    )
