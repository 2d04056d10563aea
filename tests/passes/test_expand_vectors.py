"""expand_vectors: a vector has a second axis while TensorRT's layers work on it."""

from __future__ import annotations

import pytest

from ingot.backends.tensorrt.lowering.expand_vectors import ExpandVectors

SOFTMAX = "g (float[S] x) => (float[S] y) { y = Softmax(x) }"
PRODUCT = "g (float[S] x, float[B, S, 3] m) => (float[B, 3] y) { y = MatMul(x, m) }"


@pytest.mark.parametrize(
    "graph", [SOFTMAX, "g (float16[S] x) => (float16[S] y) { y = Softmax <axis = 0> (x) }"], ids=["last", "first"]
)
def test_rewrites_softmax(rewrites, graph: str) -> None:
    assert rewrites(ExpandVectors(), graph).operators == ["Unsqueeze", "Softmax", "Squeeze"]


@pytest.mark.parametrize(
    "graph", [PRODUCT, "g (float[S] x, float[2, B, S, 3] m) => (float[2, B, 3] y) { y = MatMul(x, m) }"]
)
def test_rewrites_a_product(rewrites, graph: str) -> None:
    assert rewrites(ExpandVectors(), graph).operators == ["Unsqueeze", "MatMul", "Squeeze"]


def test_declines_an_old_operator_set(declines) -> None:
    declines(ExpandVectors(), SOFTMAX, opset=12, reason="too old")


@pytest.mark.parametrize(
    "graph",
    [
        "g (float[S, 3] x) => (float[S, 3] y) { y = Softmax(x) }",
        "g (float[S] x, float[S, 3] m) => (float[3] y) { y = MatMul(x, m) }",
        "g (float[B, 2, S] x, float[S] m) => (float[B, 2] y) { y = MatMul(x, m) }",
    ],
)
def test_declines_what_the_parser_takes(declines, graph: str) -> None:
    declines(ExpandVectors(), graph)
