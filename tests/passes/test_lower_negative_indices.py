"""lower_negative_indices: every index that may count from the back is made to count from the front."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.backends.tensorrt.lowering.lower_negative_indices import LowerNegativeIndices

# The fixture draws 0 and 1 for integers: less one, bounded by 0, they are the last and the first.


@pytest.mark.parametrize("axis", [0, -2])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_rewrites_gather(rewrites, axis: int, dtype: str) -> None:
    text = f"""g (float[S, 4] x, {dtype}[B] i) => (float[B, 4] y) {{
        low = Sub(i, one)  bounded = Min(low, zero)  y = Gather <axis = {axis}> (x, bounded) }}"""
    checked = rewrites(LowerNegativeIndices(), text, one=np.array(1, dtype), zero=np.array(0, dtype))
    assert checked.operators.count("Where") == 1


def test_rewrites_a_constant_without_axes(rewrites) -> None:
    text = "g (float[B, S, 4] x) => (float[B, 4] y) { y = Gather <axis = 1> (x, last) }"
    checked = rewrites(LowerNegativeIndices(), text, last=np.array(-1))
    assert checked.model.graph.outputs[0].shape is not None


@pytest.mark.parametrize("operator", ["GatherElements", "ScatterElements"])
def test_rewrites_elements(rewrites, operator: str) -> None:
    update = ", u" if operator.startswith("Scatter") else ""
    result = "S, 4" if update else "1, 4"
    text = f"""g (float[S, 4] x, int64[1, 4] i, float[1, 4] u) => (float[{result}] y) {{
        low = Sub(i, one)  bounded = Min(low, zero)  y = {operator}(x, bounded{update})  }}"""
    rewrites(LowerNegativeIndices(), text, one=np.array(1), zero=np.array(0))


@pytest.mark.parametrize("operator", ["GatherND", "ScatterND"])
def test_rewrites_tuples(rewrites, operator: str) -> None:
    update = ", u" if operator.startswith("Scatter") else ""
    result = "S, S" if update else "1"
    text = f"""g (float[S, S] x, int64[1, 2] i, float[1] u) => (float[{result}] y) {{
        low = Sub(i, one)  bounded = Min(low, zero)  y = {operator}(x, bounded{update})  }}"""
    rewrites(LowerNegativeIndices(), text, one=np.array(1), zero=np.array(0))


def test_rewrites_tuples_behind_a_batch(rewrites) -> None:
    text = """g (float[B, S, 3] x, int64[B, 1] i) => (float[B, 3] y) {
        low = Sub(i, one)  bounded = Min(low, zero)  y = GatherND <batch_dims = 1> (x, bounded) }"""
    rewrites(LowerNegativeIndices(), text, one=np.array(1), zero=np.array(0))


def test_rewrites_one_hot(rewrites) -> None:
    text = """g (int64[B] i) => (float[B, 5] y) { low = Sub(i, one)  y = OneHot(low, depth, values) }"""
    weights = {"one": np.array(1), "depth": np.array([5]), "values": np.array([0, 1], np.float32)}
    rewrites(LowerNegativeIndices(), text, **weights)


def test_declines_an_axis_of_known_size(declines) -> None:
    text = "g (float[7, 4] x, int64[B] i) => (float[B, 4] y) { y = Gather(x, i) }"
    declines(LowerNegativeIndices(), text, reason="TensorRT knows the sizes")


def test_declines_what_counts_from_the_front(declines) -> None:
    text = "g (float[S, 4] x) => (float[2, 4] y) { y = Gather(x, first) }"
    declines(LowerNegativeIndices(), text, first=np.array([0, 1]))


def test_declines_indices_of_floats(declines) -> None:
    text = "g (float[B] i) => (float[B, 5] y) { y = OneHot(i, depth, values) }"
    weights = {"depth": np.array([5]), "values": np.array([0, 1], np.float32)}
    declines(LowerNegativeIndices(), text, reason="its indices are FLOAT", **weights)


def test_declines_tuples_of_unknown_length(declines) -> None:
    text = "g (float[S, S] x, int64[B, M] i) => (float[B] y) { y = GatherND(x, i) }"
    declines(LowerNegativeIndices(), text, infer=False, reason="the number of axes that it indexes")
