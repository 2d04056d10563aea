"""drop_open_mask: a mask that hides nothing goes, and one that might stays."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.passes.drop_open_mask import DropOpenMask

GRAPH = """g (float[B, 4, S, 6] q, float[B, 4, K, 6] k, float[B, 4, K, 6] v{more}) => (float[B, 4, S, 6] y) {{
    {step}  y = Attention(q, k, v, {read}) }}"""

SQUARE = """g (float[B, 4, S, 6] q) => (float[B, 4, S, 6] y) {{
    batch = Shape <start = 0, end = 1> (q)  one = Constant <value_ints = [1]> ()
    length = Shape <start = 2, end = 3> (q)  target = Concat <axis = 0> (batch, one, length, length)
    mask = Expand({source}, target)  y = Attention(q, q, q, mask) }}"""


def test_rewrites_what_is_expanded_from_true(rewrites):
    checked = rewrites(DropOpenMask(), SQUARE.format(source="open"), open=np.ones((1, 1, 1, 1), bool))
    assert checked.node("Attention").inputs[3] is None


def test_rewrites_a_constant(rewrites):
    text = """g (float[B, 4, 5, 6] q) => (float[B, 4, 5, 6] y) { u = Unsqueeze(open, axes)
        y = Attention(q, q, q, u) }"""
    checked = rewrites(DropOpenMask(), text, open=np.ones((5, 5), bool), axes=np.array([0, 1]))
    assert checked.node("Attention").inputs[3] is None


def test_declines_one_false_element(declines):
    mask = np.ones((1, 1, 5, 5), bool)
    mask[0, 0, 3, 1] = False
    text = "g (float[B, 4, 5, 6] q) => (float[B, 4, 5, 6] y) { y = Attention(q, q, q, open) }"
    declines(DropOpenMask(), text, open=mask)


def test_declines_a_mask_that_is_added(declines):
    text = "g (float[B, 4, 5, 6] q) => (float[B, 4, 5, 6] y) { y = Attention(q, q, q, open) }"
    declines(DropOpenMask(), text, open=np.ones((5, 5), np.float32))


@pytest.mark.parametrize("more", [", bool[B, 1, S, K] mask", ", bool[S, K] mask"])
def test_declines_what_is_given(declines, more):
    declines(DropOpenMask(), GRAPH.format(more=more, step="", read="mask"))


def test_declines_a_mask_that_is_narrower_than_the_keys(declines):
    text = GRAPH.format(more="", step="", read="open")
    declines(DropOpenMask(), text, open=np.ones((1, 1, 1, 3), bool), infer=False, reason="3 wide and its keys K")


def test_declines_behind_a_past(declines):
    text = """g (float[B, 4, S, 6] q, float[B, 4, P, 6] past) => (float[B, 4, S, 6] y, float[B, 4, T, 6] k,
        float[B, 4, T, 6] v) { y, k, v = Attention(q, q, q, open, past, past) }"""
    declines(DropOpenMask(), text, open=np.ones((1, 1), bool), infer=False, reason="wider by a past")
