"""merge_initializers: equal constants and tied weights are stored once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from ingot.passes.contract import run_passes
from ingot.passes.merge_initializers import MergeInitializers

TWO_WEIGHTS = "g (float[B, 32] x) => (float[B, 32] y) { a = MatMul(x, v)  y = MatMul(a, w) }"


def test_rewrites_equal_small_constants(rewrites):
    checked = rewrites(
        MergeInitializers(),
        "g (float[B, 2] x) => (float[B, 2] y) <float[2] p = {1, 2}, float[2] q = {1, 2}>"
        "{ a = Add(x, p)  y = Mul(a, q) }",
    )
    assert list(checked.model.graph.initializers) == ["p"]


def test_rewrites_tied_weights(build, weight, same_numbers):
    tied = weight((32, 32))
    before, after = (build(TWO_WEIGHTS, v=tied, w=tied) for _ in range(2))
    for name in "vw":
        after.graph.initializers[name].const_value = ir.tensor(tied)
    (report,) = run_passes(after, [MergeInitializers()])
    assert report.rewrites == 1
    assert list(after.graph.initializers) == ["v"]
    same_numbers(before, after)
    assert run_passes(after, [MergeInitializers()])[0].rewrites == 0


def test_rewrites_in_a_body_what_the_outer_graph_has(rewrites):
    checked = rewrites(
        MergeInitializers(),
        """g (bool c, float[B] x) => (float[B] y) <float two = {2}> {
            z = Mul(x, two)
            y = If (c) <then_branch = t () => (float[B] p) <float k = {2}> { p = Mul(z, k) },
                        else_branch = e () => (float[B] q) <float m = {3}> { q = Mul(z, m) }>
        }""",
    )
    assert checked.report.rewrites == 1


def test_declines_bodies_beside_each_other(declines):
    declines(
        MergeInitializers(),
        """g (bool c, float[B] x) => (float[B] y) {
            y = If (c) <then_branch = t () => (float[B] p) <float k = {2}> { p = Mul(x, k) },
                        else_branch = e () => (float[B] q) <float m = {2}> { q = Mul(x, m) }>
        }""",
    )


def test_declines_equal_weights_in_different_memory(build, weight):
    w = weight((32, 32))
    model = build(TWO_WEIGHTS, v=w, w=w)
    model.graph.initializers["v"].const_value = ir.tensor(w)
    model.graph.initializers["w"].const_value = ir.tensor(w.copy())
    assert run_passes(model, [MergeInitializers()])[0].rewrites == 0


def test_declines_weights_of_which_each_reading_makes_an_array(build):
    # As float_data, and not as raw bytes, a tensor has no memory of its own to be known by.
    v, w = (np.full((32, 32), number, np.float32) for number in (2, 3))
    model = build(TWO_WEIGHTS, v=v, w=w)
    for name, array in (("v", v), ("w", w)):
        proto = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, array.shape, array.ravel().tolist())
        model.graph.initializers[name].const_value = ir.TensorProtoTensor(proto)
    assert run_passes(model, [MergeInitializers()])[0].rewrites == 0


def test_declines_the_same_memory_read_in_another_order(build, weight):
    w = weight((32, 32))
    model = build(TWO_WEIGHTS, v=w, w=w)
    model.graph.initializers["v"].const_value = ir.tensor(w)
    model.graph.initializers["w"].const_value = ir.tensor(w.T)
    assert run_passes(model, [MergeInitializers()])[0].rewrites == 0


def test_declines_other_shapes_and_dtypes(declines):
    declines(
        MergeInitializers(),
        """g (float[B, 2] x) => (float[B, 2] y) <float[2] p = {0, 0}, float[1, 2] q = {0, 0}, int32[2] r = {0, 0}> {
            a = Add(x, p)  b = Add(a, q)  c = Cast <to = 1> (r)  y = Add(b, c) }""",
    )


def test_declines_an_initializer_that_the_caller_may_override(declines):
    declines(
        MergeInitializers(),
        """g (float[B] x, float k) => (float[B] y) <float k = {2}, float m = {2}> { a = Mul(x, k)  y = Mul(a, m) }""",
        reason="input or output",
    )


def test_declines_weights_that_are_not_made_yet(build, weight):
    w = weight((32, 32))
    model = build(TWO_WEIGHTS, v=w, w=w)
    for name in "vw":

        def make() -> ir.TensorProtocol:
            raise AssertionError("a weight was read")

        lazy = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([32, 32]))
        model.graph.initializers[name].const_value = lazy
    assert run_passes(model, [MergeInitializers()])[0].rewrites == 0
