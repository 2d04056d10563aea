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
