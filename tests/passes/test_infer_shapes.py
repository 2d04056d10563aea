"""infer_shapes: what the exporter left out is filled in, in the dims that it named."""

from __future__ import annotations

import onnx_ir as ir

from ingot.passes.contract import run_passes
from ingot.passes.infer_shapes import InferShapes


def test_rewrites(rewrites):
    checked = rewrites(
        InferShapes(),
        """g (float[B, S, 4] x) => (float[B, 4, S] y) { a = Relu(x)  b = Transpose <perm = [0, 2, 1]> (a)
        s = Shape(b)  y = Reshape(b, s) }""",
        infer=False,
    )
    shapes = {value.name: str(value.shape) for node in checked.model.graph for value in node.outputs}
    assert shapes == {"a": "[B,S,4]", "b": "[B,4,S]", "s": "[3]", "y": "[B,4,S]"}


def test_initializers_stay_as_they_were(build, weight):
    w = weight((64, 64))
    model = build("g (float[B, 64] x) => (float[B, 64] y) { a = MatMul(x, w)  y = Relu(a) }", infer=False, w=w)
    tensor = model.graph.initializers["w"].const_value
    run_passes(model, [InferShapes()])
    assert model.graph.initializers["w"].const_value is tensor
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_rewrites_in_a_body_and_behind_it(rewrites):
    checked = rewrites(
        InferShapes(),
        """g (bool c, float[B, 4] x) => (float[B, 4] y) {
            a = Relu(x)
            b = If (c) <then_branch = t () => (p) { d = Neg(a)  p = Relu(d) }, else_branch = e () => (q) { q = Neg(a) }>
            y = Neg(b) }""",
        infer=False,
    )
    body = checked.node("If").attributes["then_branch"].as_graph()
    assert [str(node.outputs[0].shape) for node in body] == ["[B,4]", "[B,4]"]
    assert str(checked.node("If").outputs[0].shape) == "[B,4]"


def test_rewrites_through_sizes_of_known_shape(rewrites):
    # s and n have their shapes; to know c's, onnx must follow the numbers in them.
    checked = rewrites(
        InferShapes(),
        """g (float[B, 6] x) => (float[B, 2, 3] y) <int64[1] zero = {0}, int64[2] rest = {2, 3},
        int64[2] s, int64[1] n, int64[3] t> {
            s = Shape(x)  n = Gather(s, zero)  t = Concat <axis = 0> (n, rest)  c = Reshape(x, t)  y = Neg(c) }""",
        infer=False,
    )
    assert str(checked.node("Reshape").outputs[0].shape) == "[B,2,3]"


def test_a_dim_that_nobody_named_has_one_name_and_becomes_known_later(build):
    model = build(
        """g (float[B, 6] x, int64[2] t) => (float[K, L] y, float[M, N] z) <int64[2] u = {-1, 3}> {
            a = Reshape(x, t)  b = Neg(a)  c = Reshape(x, t)  y = Relu(b)  z = Relu(c) }"""
    )
    a, b, c = (model.graph[i].outputs[0] for i in range(3))
    assert a.shape == b.shape
    assert not set(a.shape) & set(c.shape)
    assert all(dim.value.startswith("?") for dim in a.shape)
    model.graph[0].replace_input_with(1, model.graph.initializers["u"])
    (report,) = run_passes(model, [InferShapes()])
    assert report.rewrites == 2
    assert a.shape[1] == b.shape[1] == 3
    assert c.shape[1] != 3
    assert run_passes(model, [InferShapes()])[0].rewrites == 0


def test_no_weight_is_read(build, weight):
    def make() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = build(
        "g (float[B, 64] x) => (float[B, 8] y) { a = MatMul(x, w)  y = Relu(a) }", infer=False, w=weight((64, 8))
    )
    lazy = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([64, 8]))
    model.graph.initializers["w"].const_value = lazy
    assert run_passes(model, [InferShapes()])[0].rewrites == 1
    assert str(model.graph[0].outputs[0].shape) == "[B,8]"


def test_declines_what_is_known_already(declines):
    declines(InferShapes(), "g (float[B] x) => (float[B] y) { a = Relu(x)  y = Neg(a) }")


def test_declines_an_operator_that_onnx_does_not_know(build):
    model = build("g (float[B] x) => (float[B] y) { a = local.F(x)  y = Relu(a) }")
    assert model.graph[0].outputs[0].shape is None


def test_pieces_of_a_sequence_are_not_taken_for_equal(build):
    model = build(
        """g (float[B, 7] x) => (float[B, K] y, float[B, L] z) <int64 zero = {0}, int64 two = {2}, int64 three = {3}> {
            s = SplitToSequence <axis = 1> (x, three)  a = SequenceAt(s, zero)  b = SequenceAt(s, two)
            y = Neg(a)  z = Neg(b) }"""
    )
    sequence, first, last = (model.graph[i].outputs[0] for i in range(3))
    assert isinstance(sequence.type, ir.SequenceType)
    assert first.shape is None
    assert last.shape is None
