"""The edits keep the graph's interface, names and provenance."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from ingot.ir.checks import Interface, check_model
from ingot.ir.rewrite import (
    add_constant,
    all_graphs,
    all_nodes,
    constant_array,
    fresh_name,
    remove_node,
    replace_by_constant,
    replace_node,
    replace_value,
    value_names,
)


def parse(graph: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {graph}'))


BODIES = """g (bool c, float[B] x) => (float[B] y) <float w = {2}> {
    a = Mul(x, w)
    y = If (c) <then_branch = t () => (float[B] p) <float k = {2}> { p = Mul(a, k) },
                else_branch = e () => (float[B] q) { q = Exp(a) }>
}"""


def test_walks_reach_the_bodies():
    model = parse(BODIES)
    assert [node.op_type for node in all_nodes(model)] == ["Mul", "If", "Mul", "Exp"]
    assert [graph.name for graph in all_graphs(model)] == ["g", "t", "e"]
    assert value_names(model) == {"c", "x", "w", "a", "y", "p", "q", "k"}


def test_replace_value_moves_the_name_of_an_output():
    model = parse("g (float[B] x) => (float[B] y) { a = Relu(x)  b = Neg(a)  y = Identity(a) }")
    interface = Interface.of(model)
    identity = model.graph[2]
    assert replace_value(identity.outputs[0], model.graph[0].outputs[0])
    remove_node(identity)
    check_model(model, after="the test", interface=interface)
    assert model.graph[1].inputs[0].name == "y"


@pytest.mark.parametrize(
    ("graph", "old", "new"),
    [
        ("g (float[B] x) => (float[B] y) { y = Identity(x) }", "y", "x"),
        ("g (float[B] x) => (float[B] y, float[B] z) { z = Relu(x)  y = Identity(z) }", "y", "z"),
        ("g (float[B] x) => (float y) <float w = {1}> { y = Identity(w) }", "y", "w"),
        (BODIES.replace("p = Mul(a, k)", "p = Identity(a)"), "p", "a"),
    ],
    ids=["an input", "another output", "an initializer", "a value outside the body"],
)
def test_replace_value_refuses_what_would_lose_a_name(graph, old, new):
    model = parse(graph)
    values = {value.name: value for node in all_nodes(model) for value in [*node.inputs, *node.outputs]}
    before = str(ir.to_proto(model))
    assert not replace_value(values[old], values[new])
    assert str(ir.to_proto(model)) == before


def test_replace_value_hands_on_what_is_known():
    model = parse("g (float[B] x) => (float[B] y) { a = Relu(x)  b = Identity(a)  y = Neg(b) }")
    relu, identity = model.graph[0].outputs[0], model.graph[1].outputs[0]
    identity.shape, identity.type = ir.Shape(["B"]), ir.TensorType(ir.DataType.FLOAT)
    assert replace_value(identity, relu)
    assert relu.shape == ["B"]
    assert relu.dtype == ir.DataType.FLOAT


def test_replace_node():
    model = parse("g (float[B] x) => (float[B] y) { y = Neg(x) }")
    interface = Interface.of(model)
    node = model.graph[0]
    node.metadata_props["ingot.module"] = "encoder"
    replace_node(node, ir.Node("", "Abs", [node.inputs[0]]))
    check_model(model, after="the test", interface=interface)
    assert [node.op_type for node in model.graph] == ["Abs"]
    assert model.graph[0].metadata_props == {"ingot.module": "encoder"}
    assert model.graph[0].outputs[0].shape == ["B"]


def test_replace_by_constant():
    model = parse("g (float[B] x) => (float[B] y) { a = Neg(x)  y = Mul(a, x) }")
    node = model.graph[0]
    assert replace_by_constant(node.outputs[0], ir.tensor([3.0]))
    remove_node(node)
    check_model(model, after="the test")
    assert constant_array(model.graph[0].inputs[0]).tolist() == [3.0]
    assert model.graph[0].inputs[0].name == "a"


def test_replace_by_constant_refuses_an_output():
    model = parse("g (float[B] x) => (float[B] y) { y = Neg(x) }")
    assert not replace_by_constant(model.graph[0].outputs[0], ir.tensor([3.0]))
    assert model.graph.outputs[0].name == "y"


def test_constant_array_gives_only_what_cannot_change():
    model = parse(
        "g (float[B] x, float k) => (float[B] y) <float k = {1}, float w = {2}> { a = Mul(x, k)  y = Add(a, w) }"
    )
    k, w = model.graph.initializers["k"], model.graph.initializers["w"]
    assert constant_array(k) is None
    assert constant_array(w) == 2
    assert constant_array(w, limit_bytes=3) is None
    assert constant_array(model.graph.inputs[0]) is None
    assert constant_array(None) is None
    words = add_constant(model.graph, "words", ir.StringTensor([b"a"], shape=ir.Shape([1])))
    assert constant_array(words) is None


def test_remove_node_lets_go_of_what_a_body_read():
    model = parse(BODIES)
    read = model.graph[0].outputs[0]
    assert len(read.uses()) == 2
    model.graph.outputs[0] = read
    remove_node(model.graph[1])
    assert not read.uses()


def test_remove_node_refuses_what_is_still_read():
    model = parse("g (float[B] x) => (float[B] y) { a = Neg(x)  y = Relu(a) }")
    with pytest.raises(ValueError, match="still being used"):
        remove_node(model.graph[0])
    with pytest.raises(ValueError, match="still an output"):
        remove_node(model.graph[1])


def test_fresh_name():
    taken = {"a", "a_2"}
    assert [fresh_name(base, taken) for base in ("a", "a", "b")] == ["a_3", "a_4", "b"]
