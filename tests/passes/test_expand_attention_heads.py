"""expand_attention_heads: heads that are joined are split in front of Attention and joined behind it."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.tensorrt.lowering.expand_attention_heads import ExpandAttentionHeads

GRAPH = """g (float[B, S, 24] q, float[B, K, {kv}] k, float[B, K, {kv}] v) => (float[B, S, {out}] y) {{
    y = Attention <q_num_heads = 4, kv_num_heads = {heads}> (q, k, v) }}"""


@pytest.mark.parametrize(("kv", "heads", "out"), [(24, 4, 24), (12, 2, 24), (6, 1, 24)])
def test_rewrites(rewrites, kv: int, heads: int, out: int) -> None:
    checked = rewrites(ExpandAttentionHeads(), GRAPH.format(kv=kv, heads=heads, out=out))
    attention = checked.node("Attention")
    assert [list(value.shape)[1::2] for value in attention.inputs] == [[4, 6], [heads, 6], [heads, 6]]
    assert "q_num_heads" not in attention.attributes


def test_rewrites_with_a_mask(rewrites) -> None:
    text = """g (float[B, S, 24] q, bool[S, S] mask) => (float[B, S, 24] y, float[B, S, 24] z) {
        y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, q, q, mask)  z = Neg(y) }"""
    # A row that sees nothing is not a number in ONNX Runtime's kernel, and equal to none.
    checked = rewrites(
        ExpandAttentionHeads(),
        text.replace("(q, q, q, mask)", "(q, q, q, open)").replace("y = A", "open = Or(mask, true)  y = A"),
        true=np.array(True),
    )
    assert checked.operators.count("Transpose") == 4


def test_declines_heads_that_are_apart(declines) -> None:
    declines(ExpandAttentionHeads(), "g (float[B, 4, S, 6] q) => (float[B, 4, S, 6] y) { y = Attention(q, q, q) }")


def test_declines_a_width_that_is_not_known(declines) -> None:
    text = """g (float[B, S, H] q) => (float[B, S, H] y) {
        y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, q, q) }"""
    declines(ExpandAttentionHeads(), text, infer=False, reason="the size of its heads is not known")
