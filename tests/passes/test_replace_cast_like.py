"""replace_cast_like: the dtype that CastLike would look up is written down."""

from __future__ import annotations

import pytest

from ingot.passes.replace_cast_like import ReplaceCastLike


@pytest.mark.parametrize(("dtype", "number"), [("float", 1), ("int64", 7), ("bool", 9), ("double", 11)])
def test_rewrites(rewrites, dtype, number):
    checked = rewrites(
        ReplaceCastLike(),
        f"""g (float[B, 3] x, {dtype}[S] like) => ({dtype}[B, 3] y, {dtype}[S] same) {{
            y = CastLike(x, like)  same = Identity(like) }}""",
    )
    cast = checked.node("Cast")
    assert len(cast.inputs) == 1
    assert cast.attributes["to"].as_int() == number


def test_declines_an_unknown_dtype(declines):
    declines(
        ReplaceCastLike(),
        "g (float[B] x) => (float[B] y) { like = Relu(x)  y = CastLike(x, like) }",
        infer=False,
        reason="dtype to cast to is not known",
    )
