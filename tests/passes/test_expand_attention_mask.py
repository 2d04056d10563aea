"""expand_attention_mask: ONNX Runtime's Attention gets the mask at the height of its queries."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.onnxruntime.expand_attention_mask import ExpandAttentionMask
from ingot.passes.contract import run_passes

GRAPH = """g (float[B, S, 24] q, float[B, K, 24] k, float[B, K, 24] v, bool[{mask}] mask) => (float[B, S, 24] y) {{
    {step}
    y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v, {read})
}}"""

BY_HAND = """height = Shape <start = 1, end = 2> (q)  width = Shape <start = 1, end = 2> (k)
    target = Concat <axis = 0> (height, width)  high = Expand(mask, target)"""


@pytest.mark.parametrize("mask", ["B, 1, 1, K", "1, 4, 1, K", "1, K", "B, 1, S, 1", "B, 1, 1, 1"])
def test_rewrites_to_the_numbers_of_a_mask_expanded_by_hand(build, same_numbers, mask: str) -> None:
    by_hand = build(GRAPH.format(mask=mask, step=BY_HAND, read="high"))
    model = build(GRAPH.format(mask=mask, step="", read="mask"))
    (report,) = run_passes(model, [ExpandAttentionMask()])
    assert report.rewrites == 1
    same_numbers(by_hand, model)
    (again,) = run_passes(model, [ExpandAttentionMask()])
    assert again.rewrites == 0, "a second run changed something"


def test_rewrites_heads_first(build, same_numbers) -> None:
    text = """g (float[B, 4, S, 6] q, float[B, 4, K, 6] k, float[B, 4, K, 6] v, float[B, 1, 1, K] mask)
        => (float[B, 4, S, 6] y) {{ {step}  y = Attention(q, k, v, {read}) }}"""
    by_hand = BY_HAND.replace("start = 1, end = 2", "start = 2, end = 3")
    model = build(text.format(step="", read="mask"))
    (report,) = run_passes(model, [ExpandAttentionMask()])
    assert report.rewrites == 1
    same_numbers(build(text.format(step=by_hand, read="high")), model)


def test_declines_a_mask_of_the_right_height(declines) -> None:
    declines(ExpandAttentionMask(), GRAPH.format(mask="B, 1, S, K", step="", read="mask"))


def test_declines_queries_of_one_token(declines) -> None:
    text = GRAPH.format(mask="B, 1, 1, K", step="", read="mask").replace("[B, S, 24]", "[B, 1, 24]")
    declines(ExpandAttentionMask(), text)


def test_declines_a_height_that_is_not_known_to_be_one(declines) -> None:
    declines(ExpandAttentionMask(), GRAPH.format(mask="B, 1, R, K", step="", read="mask"), reason="its mask is R by K")


def test_declines_without_a_mask(build) -> None:
    model = build("g (float[B, 4, S, 6] q) => (float[B, 4, S, 6] y) { y = Attention(q, q, q) }")
    (report,) = run_passes(model, [ExpandAttentionMask()])
    assert np.array_equal([report.rewrites, len(report.declined)], [0, 0])
