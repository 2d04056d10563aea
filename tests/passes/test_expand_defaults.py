"""expand_defaults: an operator says what TensorRT's parser would take otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.tensorrt.lowering.expand_defaults import ExpandDefaults
from ingot.passes.contract import run_passes

TRILU = "g (float[B, S, S] x) => (float[B, S, S] y) {{ y = Trilu{attributes}({inputs}) }}"
SELU = "g (float[B, S] x) => (float[B, S] y) {{ y = Selu{attributes}(x) }}"


@pytest.mark.parametrize("inputs", ["x", "x, one"])
def test_rewrites_trilu(rewrites, inputs: str) -> None:
    checked = rewrites(ExpandDefaults(), TRILU.format(attributes="", inputs=inputs), one=np.array(1))
    assert checked.node("Trilu").attributes.get_int("upper") == 1


def test_rewrites_an_offset_without_a_name(build, same_numbers) -> None:
    text = TRILU.format(attributes=" <upper = 0> ", inputs="x")
    before, after = build(text), build(text)
    (node,) = after.graph
    node.resize_inputs(2)
    assert run_passes(after, [ExpandDefaults()])[0].rewrites == 1
    assert len(node.inputs) == 1
    assert node.attributes.get_int("upper") == 0
    same_numbers(before, after)
    assert run_passes(after, [ExpandDefaults()])[0].rewrites == 0


@pytest.mark.parametrize("attributes", ["", " <alpha = 2.0> "])
def test_rewrites_selu(rewrites, attributes: str) -> None:
    node = rewrites(ExpandDefaults(), SELU.format(attributes=attributes)).node("Selu")
    assert node.attributes.get_float("alpha") == (2.0 if attributes else np.float32(1.6732632))
    assert node.attributes.get_float("gamma") == np.float32(1.050701)


@pytest.mark.parametrize("upper", [0, 1])
def test_declines_what_is_said(declines, upper: int) -> None:
    graph = TRILU.format(attributes=f" <upper = {upper}> ", inputs="x, one")
    declines(ExpandDefaults(), graph, one=np.array(1), reason="says all")
    declines(ExpandDefaults(), SELU.format(attributes=" <alpha = 2.0, gamma = 1.0> "), reason="says all")
