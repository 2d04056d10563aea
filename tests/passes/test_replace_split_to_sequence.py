"""replace_split_to_sequence: torch.split gives tensors, not a sequence that is taken apart."""

from __future__ import annotations

import pytest

from ingot.passes.replace_split_to_sequence import ReplaceSplitToSequence

CONSTANTS = """<int64 zero = {0}, int64 one = {1}, int64 last = {-1}, int64 three = {3}, int64[3] sizes = {1, 4, 2},
    int64 nine = {9}>"""


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("SplitToSequence <axis = 1> (x, three)", [3, 3, 1]),
        ("SplitToSequence <axis = -1> (x, three)", [3, 3, 1]),
        ("SplitToSequence <axis = 1> (x, sizes)", [1, 4, 2]),
        ("SplitToSequence <axis = 1> (x)", [1] * 7),
    ],
)
def test_rewrites(rewrites, split, sizes):
    checked = rewrites(
        ReplaceSplitToSequence(),
        # Without the pieces' sizes ONNX Runtime takes them for equal and reuses the memory of one for the other.
        f"""g (float[B, 7] x) => (float[B, K] y, float[B, L] z)
        {CONSTANTS.rstrip(">")}, float[B, {sizes[0]}] a, float[B, {sizes[-1]}] b> {{
            s = {split}  a = SequenceAt(s, zero)  b = SequenceAt(s, last)  y = Neg(a)  z = Neg(b) }}""",
    )
    node = checked.node("Split")
    assert checked.constant(node.inputs[1]) == sizes
    assert len(node.outputs) == len(sizes)


def test_a_piece_that_is_an_output_and_one_that_is_read_twice(rewrites):
    checked = rewrites(
        ReplaceSplitToSequence(),
        f"""g (float[6, B] x) => (float[3, B] y, float[3, B] z) {CONSTANTS} {{
            s = SplitToSequence(x, three)  y = SequenceAt(s, zero)  a = SequenceAt(s, one)  b = SequenceAt(s, one)
            z = Add(a, b) }}""",
    )
    assert [value.name for value in checked.model.graph.outputs] == ["y", "z"]


DECLINED = {
    "an index of run time": ("s = SplitToSequence(x, three)  y = SequenceAt(s, i)", "constant index"),
    "an index outside": ("s = SplitToSequence(x, three)  y = SequenceAt(s, nine)", "constant index"),
    "the sequence itself is read": (
        "s = SplitToSequence(x, three)  a = SequenceAt(s, zero)  n = SequenceLength(s)  y = local.F(a, n)",
        "constant index",
    ),
    "sizes of run time": ("s = SplitToSequence(x, i)  y = SequenceAt(s, zero)", "sizes of the pieces"),
    "pieces of a dynamic axis": ("s = SplitToSequence <axis = 1> (x, three)  y = SequenceAt(s, zero)", "sizes of"),
    "the axis is squeezed away": ("s = SplitToSequence <keepdims = 0> (x)  y = SequenceAt(s, zero)", "sizes of"),
}


@pytest.mark.parametrize(("steps", "reason"), DECLINED.values(), ids=DECLINED)
def test_declines(declines, steps, reason):
    text = f"g (float[6, B] x, int64 i) => (float[K, B] y) {CONSTANTS} {{ {steps} }}"
    declines(ReplaceSplitToSequence(), text, reason=reason)


def test_declines_an_unknown_shape(declines):
    declines(
        ReplaceSplitToSequence(),
        f"g (float[6] x, int64[K] t) => (float[K] y) {CONSTANTS}"
        "{ a = Reshape(x, t)  s = SplitToSequence(a, three)  y = SequenceAt(s, zero) }",
        reason="sizes of the pieces",
        infer=False,
    )
