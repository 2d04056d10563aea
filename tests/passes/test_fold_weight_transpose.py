"""fold_weight_transpose: a transposed weight is stored transposed, and not copied before it is written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.weights import chunks
from ingot.passes.contract import run_passes
from ingot.passes.fold_weight_transpose import FoldWeightTranspose

LINEAR = "g (float[B, 6] x) => (float[B, 4] y) { t = Transpose <perm = [1, 0]> (w)  y = MatMul(x, t) }"


def test_rewrites(rewrites, weight):
    w = weight((4, 6))
    checked = rewrites(FoldWeightTranspose(), LINEAR, w=w)
    assert checked.operators == ["MatMul"]
    folded = checked.model.graph.initializers["t"].const_value
    assert np.array_equal(folded.numpy(), w.T)
    assert b"".join(chunks(folded)) == w.T.tobytes()


def test_the_new_weight_is_a_view_of_the_old(build, weight):
    w = weight((4, 6))
    model = build(LINEAR, w=w)
    model.graph.initializers["w"].const_value = ir.tensor(w)
    run_passes(model, [FoldWeightTranspose()])
    assert np.shares_memory(model.graph.initializers["t"].const_value.numpy(), w)


def test_rewrites_other_ranks_and_an_implied_order(rewrites, weight):
    checked = rewrites(
        FoldWeightTranspose(),
        "g (float[B, 5, 3, 2] x) => (float[B, 5, 3, 2] y) { t = Transpose(w)  y = Mul(x, t) }",
        w=weight((2, 3, 5)),
    )
    assert checked.operators == ["Mul"]


def test_rewrites_two_readers_of_one_order(rewrites, weight):
    checked = rewrites(
        FoldWeightTranspose(),
        """g (float[B, 6] x) => (float[B, 4] y) { t = Transpose <perm = [1, 0]> (w)  p = MatMul(x, t)
        u = Transpose <perm = [1, 0]> (w)  q = MatMul(x, u)  y = Add(p, q) }""",
        w=weight((4, 6)),
    )
    assert checked.report.rewrites == 2
    made = checked.model.graph.initializers
    assert made["t"].const_value is made["u"].const_value


def test_declines_a_tied_weight(declines, weight):
    declines(
        FoldWeightTranspose(),
        """g (int64[B, S] ids) => (float[B, S, 7] y) {
            e = Gather(w, ids)  t = Transpose <perm = [1, 0]> (w)  y = MatMul(e, t) }""",
        w=weight((7, 4)),
        reason="also read in another order",
    )


def test_declines_two_orders(declines, weight):
    declines(
        FoldWeightTranspose(),
        """g (float[2, 3, 4] x) => (float y) {
        t = Transpose <perm = [0, 2, 1]> (w)  u = Transpose <perm = [2, 1, 0]> (w)
        p = Mul(t, u)  q = Mul(p, x)  y = ReduceSum <keepdims = 0> (q) }""",
        w=weight((2, 3, 4)),
        infer=False,
        reason="also read in another order",
    )


def test_declines_a_graph_output(declines, weight):
    declines(
        FoldWeightTranspose(),
        "g (float[B] x) => (float[6, 4] y) { y = Transpose <perm = [1, 0]> (w) }",
        w=weight((4, 6)),
        reason="output of the graph",
    )


def test_declines_what_is_computed(declines):
    declines(FoldWeightTranspose(), "g (float[B, 4] x) => (float[4, B] y) { y = Transpose <perm = [1, 0]> (x) }")


def test_declines_elements_smaller_than_a_byte(declines):
    declines(
        FoldWeightTranspose(),
        """g (float[B, 2] x) => (float[B, 2] y) <int4[2, 2] w = {1, 2, 3, 4}> { t = Transpose <perm = [1, 0]> (w)
        c = Cast <to = 1> (t)  y = MatMul(x, c) }""",
        reason="smaller than a byte",
    )
