"""A broken graph is found and a changed one noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from ingot.errors import PassError
from ingot.ir.checks import Interface, check_model, fingerprint

GRAPH = """<ir_version: 10, opset_import: ["": 20, "f": 1]>
    g (bool c, float[B] x) => (float[B] y) <float w = {2}, float v = {3}> {
        a = Mul(x, w)
        b = f.Twice(a)
        y = If (c) <then_branch = t () => (float[B] p) <float k = {2}> { d = Mul(b, k)  p = Neg(d) },
                    else_branch = e () => (float[B] q) { q = Exp(a) }>
    }
    <domain: "f", opset_import: ["": 20]> Twice (s) => (r) { r = Add(s, s) }"""


def parse(text: str = GRAPH) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def branch(model: ir.Model) -> ir.Graph:
    return model.graph[2].attributes["then_branch"].as_graph()


def rename(value: ir.Value, name: str) -> None:
    value.name = name


def output_twice(model: ir.Model) -> None:
    model.graph.outputs[0] = model.graph[0].outputs[0]
    model.graph.outputs.append(model.graph[0].outputs[0])


BREAKS: dict[str, tuple[Callable[[ir.Model], object], str]] = {
    "removed producer": (lambda m: m.graph.remove(m.graph[0]), "reads a, which nothing before it produces"),
    "wrong order": (lambda m: m.graph.insert_after(m.graph[1], moved(m)), "reads a, which nothing before it"),
    "initializer gone": (lambda m: m.graph.initializers.pop("w"), "reads w, which nothing"),
    "initializer without data": (
        lambda m: setattr(m.graph.initializers["w"], "const_value", None),
        "left the initializer w without data",
    ),
    "initializer of a body gone": (lambda m: branch(m).initializers.pop("k"), "reads k, which nothing"),
    "body in the wrong order": (lambda m: branch(m).append(moved_in(branch(m))), "reads d, which nothing before it"),
    "read across bodies": (
        lambda m: m.graph[2].attributes["else_branch"].as_graph()[0].replace_input_with(0, branch(m)[0].outputs[0]),
        "reads d, which nothing before it",
    ),
    "one name for two": (lambda m: rename(m.graph[1].outputs[0], "a"), "gave the name a to two values"),
    "a name hidden by a body": (lambda m: rename(branch(m)[0].outputs[0], "b"), "gave the name b to two values"),
    "no name": (lambda m: setattr(m.graph[0].outputs[0], "name", None), "without a name"),
    "an output nobody makes": (lambda m: m.graph.outputs.append(ir.val("z")), "nothing that produces the output z"),
    "a body's output from outside": (
        lambda m: branch(m).outputs.__setitem__(0, m.graph[0].outputs[0]),
        "nothing that produces the output a",
    ),
    "an output twice": (output_twice, "made two outputs of graph g one value"),
    "domain not imported": (lambda m: m.opset_imports.pop("f"), "uses the domain 'f' without importing it"),
    "broken function": (
        lambda m: m.functions["f", "Twice", ""].remove(m.functions["f", "Twice", ""][0]),
        "nothing that produces the output r",
    ),
}


def moved(model: ir.Model) -> ir.Node:
    node = model.graph[0]
    model.graph.remove(node)
    return node


def moved_in(graph: ir.Graph) -> ir.Node:
    node = graph[0]
    graph.remove(node)
    return node


def test_a_sound_graph_passes():
    check_model(parse(), after="a_pass", interface=Interface.of(parse()))


@pytest.mark.parametrize(("break_it", "message"), BREAKS.values(), ids=BREAKS)
def test_a_broken_graph(break_it, message):
    model = parse()
    break_it(model)
    with pytest.raises(PassError, match="pass a_pass broke the graph") as error:
        check_model(model, after="a_pass")
    assert message in str(error.value)


INTERFACES: dict[str, tuple[Callable[[ir.Model], object], str]] = {
    "input renamed": (lambda m: rename(m.graph.inputs[1], "z"), "inputs"),
    "input dtype": (lambda m: setattr(m.graph.inputs[1], "dtype", ir.DataType.DOUBLE), "inputs"),
    "input shape": (lambda m: setattr(m.graph.inputs[1], "shape", ir.Shape([2])), "inputs"),
    "input order": (lambda m: m.graph.inputs.append(m.graph.inputs.pop(0)), "inputs"),
    "output dtype": (lambda m: setattr(m.graph.outputs[0], "dtype", ir.DataType.DOUBLE), "outputs"),
    "output more": (lambda m: m.graph.outputs.append(m.graph[0].outputs[0]), "outputs"),
    "function body gone": (lambda m: m.functions.pop(("f", "Twice", "")), "removed the body of the function f::Twice"),
}


@pytest.mark.parametrize(("change", "message"), INTERFACES.values(), ids=INTERFACES)
def test_a_changed_interface(change, message):
    model = parse()
    interface = Interface.of(model)
    change(model)
    with pytest.raises(PassError) as error:
        check_model(model, after="a_pass", interface=interface)
    assert message in str(error.value)


def test_a_type_that_was_not_known_may_become_known():
    model = parse()
    dtype, model.graph.outputs[0].type = model.graph.outputs[0].type, None
    interface = Interface.of(model)
    model.graph.outputs[0].type = dtype
    check_model(model, after="a_pass", interface=interface)


def swap_large(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor(np.ones((64, 64), np.float32))


def again(model: ir.Model) -> ir.Node:
    """The first node made anew, its result of the old name; the old one is gone, and its readers were forgotten."""
    old = model.graph[0]
    node = ir.node("Mul", old.inputs, outputs=[ir.val("a", type=old.outputs[0].type, shape=old.outputs[0].shape)])
    model.graph.remove(old)
    return node


NOTICED: dict[str, Callable[[ir.Model], object]] = {
    "operator": lambda m: setattr(m.graph[0], "op_type", "Add"),
    "domain": lambda m: setattr(m.graph[0], "domain", "other"),
    "attribute": lambda m: m.graph[0].attributes.add(ir.AttrInt64("axis", 1)),
    "attribute from -1 to -2": lambda m: m.graph[1].attributes.add(ir.AttrInt64("axis", -2)),
    "attribute from 0.0 to -0.0": lambda m: m.graph[1].attributes.add(ir.AttrFloat32("zero", -0.0)),
    "reader of a value that was replaced": lambda m: m.graph.insert_before(m.graph[1], again(m)),
    "small array written to": lambda m: m.graph.initializers["v"].const_value.numpy().fill(9),
    "edge": lambda m: m.graph[1].replace_input_with(0, m.graph.inputs[1]),
    "operands swapped": lambda m: (
        m.graph[0].replace_input_with(0, m.graph.initializers["w"]),
        m.graph[0].replace_input_with(1, m.graph.inputs[1]),
    ),
    "name": lambda m: rename(m.graph[0].outputs[0], "other"),
    "shape": lambda m: setattr(m.graph[0].outputs[0], "shape", ir.Shape([1])),
    "dtype": lambda m: setattr(m.graph[0].outputs[0], "dtype", ir.DataType.FLOAT16),
    "small constant": lambda m: setattr(m.graph.initializers["w"], "const_value", ir.tensor(np.float32(9))),
    "large weight": swap_large,
    "initializer more": lambda m: m.graph.register_initializer(ir.Value(name="n", const_value=ir.tensor([1]))),
    "node in a body": lambda m: setattr(branch(m)[0], "op_type", "Add"),
    "initializer in a body": lambda m: setattr(branch(m).initializers["k"], "const_value", ir.tensor(np.float32(9))),
    "node in a function": lambda m: setattr(m.functions["f", "Twice", ""][0], "op_type", "Mul"),
    "opset": lambda m: m.opset_imports.update({"": 21}),
    "order of outputs": lambda m: m.graph.outputs.append(m.graph[0].outputs[0]),
}


@pytest.mark.parametrize("change", NOTICED.values(), ids=NOTICED)
def test_the_fingerprint_notices(change):
    model = parse()
    model.graph.initializers["w"].const_value = ir.tensor(np.ones((64, 64), np.float32))
    model.graph.initializers["v"].const_value = ir.tensor(np.ones(3, np.float32))
    model.graph[1].attributes.add(ir.AttrInt64("axis", -1))
    model.graph[1].attributes.add(ir.AttrFloat32("zero", 0.0))
    before = fingerprint(model)
    assert fingerprint(model) == before
    change(model)
    assert fingerprint(model) != before


def test_the_fingerprint_holds_weights_so_that_a_new_one_cannot_look_like_the_old():
    model = parse()
    swap_large(model)
    before = fingerprint(model)
    for _ in range(50):
        swap_large(model)
        assert fingerprint(model) != before


def test_the_fingerprint_makes_no_lazy_weight():
    def make() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = parse()
    lazy = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([2]))
    model.graph.initializers["w"].const_value = lazy
    assert fingerprint(model) == fingerprint(model)


def test_metadata_is_left_out():
    model = parse()
    before = fingerprint(model)
    model.graph[0].metadata_props["ingot.module"] = "encoder"
    assert fingerprint(model) == before


def test_work_grows_with_the_nodes(count_calls):
    def calls(count: int) -> int:
        steps = "  ".join(f"v{i + 1} = Neg(v{i})" for i in range(count))
        model = parse(f'<ir_version: 10, opset_import: ["": 20]> g (float[B] v0) => (float[B] v{count}) {{ {steps} }}')
        return count_calls(lambda: (fingerprint(model), check_model(model, after="a_pass")))

    # Twenty times the nodes; a quadratic walk would make 400 times the calls.
    assert calls(10_000) < 25 * calls(500)
