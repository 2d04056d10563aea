"""replace_attention_layout: Attention takes its heads where the projections left them."""

from __future__ import annotations

import pytest

from ingot.passes.replace_attention_layout import ReplaceAttentionLayout

SPLIT = """
    r{0} = Reshape({0}, split{0})  t{0} = Transpose <perm = [0, 2, 1, 3]> (r{0})
"""
JOIN = "u = Transpose <perm = [0, 2, 1, 3]> (a)  y = Reshape(u, join)"
CONSTANTS = """<int64[4] splitq = {0, 0, 4, 8}, int64[4] splitk = {0, 0, 2, 8}, int64[4] splitv = {0, 0, 2, 6},
    int64[3] join = {0, 0, 24}>"""
INPUTS = "float[B, S, 32] q, float[B, K, 16] k, float[B, K, 12] v"


def graph(attention: str, *, inputs: str = INPUTS, split: str = "qkv", join: str = JOIN, output: str = "y") -> str:
    steps = "".join(SPLIT.format(name) for name in split)
    return f"g ({inputs}) => (float[B, S, 24] {output}) {CONSTANTS} {{ {steps} {attention} {join} }}"


@pytest.mark.parametrize(
    ("attention", "inputs"),
    [
        ("a = Attention(tq, tk, tv)", INPUTS),
        ("a = Attention <scale = 0.3> (tq, tk, tv, mask)", f"{INPUTS}, bool[B, 1, S, K] mask"),
        ("a = Attention <is_causal = 1, softcap = 2.0> (tq, tk, tv)", INPUTS),
        ("a = Attention(tq, tk, tv, mask)", f"{INPUTS}, float[S, K] mask"),
    ],
)
def test_rewrites(rewrites, attention, inputs):
    checked = rewrites(ReplaceAttentionLayout(), graph(attention, inputs=inputs))
    node = checked.node("Attention")
    assert [value.name for value in node.inputs[:3]] == ["q", "k", "v"]
    assert (node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) == (4, 2)
    assert node.outputs[0].name == "y"
    assert node.metadata_props["ingot.module"] == "module.a"


@pytest.mark.parametrize("target", ["{-1, 24}", "{0, -1}", "{0, 0, 2, 12}"])
def test_rewrites_before_another_reshape(rewrites, target):
    rank = target.count(",") + 1
    join = "u = Transpose <perm = [0, 2, 1, 3]> (a)  w = Reshape(u, other)  y = Reshape(w, back)"
    text = graph("a = Attention(tq, tk, tv)", join=join).replace(
        "join = {0, 0, 24}>", f"back = {{0, -1, 24}}, int64[{rank}] other = {target}>"
    )
    if target == "{-1, 24}":
        text = text.replace("float[B, S, 24] y", "float[1, R, 24] y").replace(
            "back = {0, -1, 24}", "back = {1, -1, 24}"
        )
    checked = rewrites(ReplaceAttentionLayout(), text)
    assert checked.node("Attention").outputs[0].name == "a_joined"
    assert list(checked.node("Attention").outputs[0].shape) == ["B", "S", 24]


DECLINED = {
    "a later reshape keeps the axis of the heads": (
        graph("a = Attention(tq, tk, tv)").replace("{0, 0, 24}", "{0, -1, 0}").replace("[B, S, 24]", "[B, R, 4]"),
        "read otherwise",
    ),
    "the result is read with heads first": (
        graph("a = Attention(tq, tk, tv)", join="n = Neg(a)  y = Reshape(n, join)"),
        "read otherwise",
    ),
    "two read the result": (
        graph("a = Attention(tq, tk, tv)", join=f"{JOIN}  z = Neg(a)"),
        "read otherwise",
    ),
    "two read the transposed result": (
        graph("a = Attention(tq, tk, tv)", join=f"{JOIN}  z = Neg(u)"),
        "read otherwise",
    ),
    "something turns the heads": (
        graph("n = Neg(tq)  a = Attention(n, tk, tv)"),
        "not split and moved",
    ),
    "the heads come apart": (
        graph(
            "a = Attention(q, tk, tv)", inputs=INPUTS.replace("float[B, S, 32] q", "float[B, 4, S, 8] q"), split="kv"
        ),
        "not split and moved",
    ),
    "another order": (
        graph(
            "r = Reshape(q, splitq)  tq = Transpose <perm = [0, 2, 3, 1]> (r)  a = Attention(tq, tk, tv)", split="kv"
        ),
        "not split and moved",
    ),
    "a cache": (
        graph(
            "a, pk, pv = Attention(tq, tk, tv, , past_k, past_v)",
            inputs=f"{INPUTS}, float[B, 2, P, 8] past_k, float[B, 2, P, 6] past_v",
        ),
        "has a cache",
    ),
    "the scores are read": (
        graph("a, , , s = Attention(tq, tk, tv)", join=f"{JOIN}  z = Neg(s)"),
        "gives its scores",
    ),
}


@pytest.mark.parametrize(("text", "reason"), DECLINED.values(), ids=DECLINED)
def test_declines(declines, text, reason):
    declines(ReplaceAttentionLayout(), text, reason=reason)


def test_declines_heads_that_are_not_known(declines):
    declines(
        ReplaceAttentionLayout(),
        """g (float[B, S, W] x, int64[4] split) => (float[B, S, W] y) <int64[3] join = {0, 0, -1}> {
            r = Reshape(x, split)  t = Transpose <perm = [0, 2, 1, 3]> (r)  a = Attention(t, t, t)
            u = Transpose <perm = [0, 2, 1, 3]> (a)  y = Reshape(u, join) }""",
        reason="number is not known",
    )


def test_declines_keys_and_values_of_unlike_heads(declines):
    text = graph("a = Attention(tq, tk, tv)").replace("splitv = {0, 0, 2, 6}", "splitv = {0, 0, 1, 12}")
    declines(ReplaceAttentionLayout(), text, reason="keys have 2 heads and its values 1")


def test_declines_what_is_that_way_already(declines):
    declines(
        ReplaceAttentionLayout(),
        """g (float[B, S, 32] q, float[B, S, 32] k, float[B, S, 32] v) => (float[B, S, 32] y) {
            y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v) }""",
    )
