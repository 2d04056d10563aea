"""expand_trilu_default: a Trilu says which triangle it takes."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.tensorrt.lowering.expand_trilu_default import ExpandTriluDefault
from ingot.passes.contract import run_passes

GRAPH = "g (float[B, S, S] x) => (float[B, S, S] y) {{ y = Trilu{attributes}({inputs}) }}"


@pytest.mark.parametrize("inputs", ["x", "x, one"])
def test_rewrites(rewrites, inputs: str) -> None:
    checked = rewrites(ExpandTriluDefault(), GRAPH.format(attributes="", inputs=inputs), one=np.array(1))
    assert checked.node("Trilu").attributes.get_int("upper") == 1


def test_rewrites_an_offset_without_a_name(build, same_numbers) -> None:
    text = GRAPH.format(attributes=" <upper = 0> ", inputs="x")
    before, after = build(text), build(text)
    (node,) = after.graph
    node.resize_inputs(2)
    assert run_passes(after, [ExpandTriluDefault()])[0].rewrites == 1
    assert len(node.inputs) == 1
    assert node.attributes.get_int("upper") == 0
    same_numbers(before, after)
    assert run_passes(after, [ExpandTriluDefault()])[0].rewrites == 0


@pytest.mark.parametrize("upper", [0, 1])
def test_declines_what_is_said(declines, upper: int) -> None:
    graph = GRAPH.format(attributes=f" <upper = {upper}> ", inputs="x, one")
    declines(ExpandTriluDefault(), graph, one=np.array(1), reason="says which triangle")
