"""The table of operators: what it takes, what it refuses and why, and that it is a table people can read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from ingot.backends.contract import No, Yes
from ingot.backends.tensorrt.operators import table as operators
from ingot.backends.tensorrt.operators.asked import never_negative

RTX, FULL = "tensorrt-rtx", "tensorrt"


def model(graph: str, opset: int = 20, imports: str = "") -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}{imports}]> {graph}'))


def reasons(graph: str, opset: int = 20, *, flavour: str = RTX, imports: str = "") -> list[str]:
    made = model(graph, opset, imports)
    return [answer.reason for _, answer in operators.unsupported(made, flavour)] + operators.refusals(made)


TAKEN = [
    ("g (float[n,3] a) => (float[n,3] y) { y = Relu(a) }", 20),
    ("g (bfloat16[n,3] a) => (bfloat16[n,3] y) { y = Sigmoid(a) }", 20),
    ("g (float[3,4] a) => (float[3,4] y) { y = Trilu<upper = 1>(a) }", 20),
    ("g (float[1,1,6,6] a) => (float[1,1,h,w] y) { y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(a) }", 20),
    ("g (float[1,1,h,w] a) => (float[1,1,u,v] y) { y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(a) }", 20),
    ("g (float[9,4] a, int64[s] i) => (float[s,4] y) { y = Gather(a, i) }", 20),
    ("g (float[n,4] a) => (float[2,4] y) { i = Constant<value_ints=[0,1]>() y = Gather(a, i) }", 20),
    (
        "g (float[1,1,h,w] a) => (float[b,c,u,v] y)"
        " { s = Constant<value_floats=[1.0,1.0,2.0,2.0]>() y = Resize(a,,s) }",
        20,
    ),
    (
        "g (float[1,1,4,8] a) => (float[1,1,u,v] y)"
        " { s = Constant<value_floats=[1.0,1.0,0.5,0.25]>() y = Resize(a,,s) }",
        20,
    ),
    (
        "g (float[1,2,4,5] a) => (float[1,4,h,w] y)"
        ' { s = Constant<value_ints=[1,4,8,10]>() y = Resize<mode = "linear">(a,,,s) }',
        20,
    ),
    ("g (float[4,3] a, float[2,3] u) => (float[4,3] y) <int64[2,1] i = {1,2}> { y = ScatterND(a,i,u) }", 18),
    ("g (float[3,4] a, float[4,2] b) => (float[3,2] y) { y = Gemm<beta = 0.0>(a, b) }", 20),
    ("g (float[2,3] a) => (float[2,3] y) { y = ReduceSum<noop_with_empty_axes = 1>(a) }", 20),
    ("g (float[3] a) => (int8[3] y) <int8 z = {0}> { s = Constant<value_float=0.1>() y = QuantizeLinear(a,s,z) }", 20),
]


@pytest.mark.parametrize(("graph", "opset"), TAKEN)
def test_it_takes(graph: str, opset: int) -> None:
    assert reasons(graph, opset) == []


REFUSED = [
    ("g (double[3] a) => (double[3] y) { y = Relu(a) }", "float64"),
    ("g (uint16[3] a) => (uint16[3] y) { y = Identity(a) }", "uint16"),
    ("g (int32[3] a) => (int32[3] y) { y = Relu(a) }", "int32; TensorRT takes float32"),
    ("g (int64[2,3] a, int64[3,2] b) => (int64[2,2] y) { y = MatMul(a, b) }", "int64; TensorRT takes"),
    ("g (float[3] a) => (float[3] y) { y = Softmax(a) }", "1 dims"),
    ("g (float[2,3] a, int64[1] i) => (float[n] y) { y = ReduceSum<keepdims=0>(a, i) }", "axes are computed"),
    ("g (float[2,3] a, int64[1] i) => (float[2,3,1] y) { y = Unsqueeze(a, i) }", "input 1 is computed"),
    ("g (float[n,4] a, int64[2] i) => (float[2,4] y) { y = Gather(a, i) }", "may be negative"),
    ("g (float[1,1,h,w] a) => (float[1,1,u,v] y) { y = MaxPool<kernel_shape=[2,2],strides=[3,3],ceil_mode=1>(a) }",
     "begins in the padding"),
    ("g (float[1,1,h,w] a) => (float[1,1,u,v] y) { s = Constant<value_floats=[1.0,1.0,0.5,0.5]>() y = Resize(a,,s) }",
     "gives no whole size"),
    ("g (float[1,1,4,4] a) => (float[1,1,2,2] y) { s = Constant<value_ints=[1,1,2,2]>() "
     'y = Resize<mode = "linear", antialias = 1>(a,,,s) }', "antialias = 1"),
    ("g (float[2,5000] a) => (float[2,k] y, int64[2,k] i) { k = Constant<value_ints=[4000]>() y, i = TopK(a, k) }",
     "at most 3840"),
    ("g (float[2,3] a, float[2,3] b) => (float[2,3] y) { y = Mod(a, b) }", "fmod = 0"),
    ('g (float[2,3] a, float[3,4] b) => (float[2,4] y) { y = Einsum<equation = "Ab,bC->AC">(a, b) }',
     "capital letters"),
    ("g (float[1,1,1,1,1,1,1,1,3] a) => (float[1,1,1,1,1,1,1,1,3] y) { y = Neg(a) }", "9 dims"),
    ("g (float[3] a) => (float[3] y, float[3] m) { y, m = LayerNormalization(a, a) }", "2 outputs"),
    ("g (float[3] a) => (float[3] y) { y = RandomUniformLike(a) }", "RandomUniformLike has no layer"),
    ("g (float[2,3] a) => (int64[2,n] y) { y = NonZero(a) }", "NonZero has no layer"),
    ("g (int64[2] a) => (int64[2] y) { y = BitwiseNot(a) }", "BitwiseNot has no layer"),
    ("g (float[3] a) => (float[3] y) { b = Cast<to = 2>(a) y = Cast<to = 1>(b) }", "uint8 inside the graph"),
    ("g (float[4,2,3] a, float[1,20,3] b, float[1,20,5] c) => (float[t,d,n,h] y)"
     " { y = LSTM<hidden_size = 5, clip = 0.3>(a, b, c) }", "clip"),
    ("g (float[4,3] a, float[2,3] u) => (float[4,3] y) <int64[2,1] i = {1,1}> { y = ScatterND(a,i,u) }",
     "two writes to one place"),
    ("g (float[2,2,4,5] a) => (float[b,c,h,w] y) { s = Constant<value_ints=[4,4,8,10]>() "
     'y = Resize<mode = "linear">(a,,,s) }', "more than the last 3 dims"),
    ("g (float[1,2,4,5] a) => (float[1,4,h,w] y) { s = Constant<value_ints=[1,4,8,10]>() "
     'y = Resize<mode = "cubic">(a,,,s) }', "more than the last 2 dims"),
    ("g (float[3,4] a) => (int64[3,1] y) { y = ArgMax<axis = 1>(a) }", "choice among equal values"),
    ("g (float z, float n, float s) => (float[m] y) { y = Range(z, n, s) }",
     "float32 between computed bounds"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "reason"), REFUSED)
def test_it_refuses(graph: str, reason: str) -> None:
    found = reasons(graph)
    assert any(reason in each for each in found), found


def test_an_attribute_that_the_table_does_not_list_is_refused() -> None:
    made = model("g (float[3] a) => (float[3] y) { y = LeakyRelu<alpha = 0.1, slope = 2>(a) }")
    ((_, answer),) = operators.unsupported(made, RTX)
    assert "the attribute slope" in answer.reason


def test_an_operator_of_a_foreign_domain_is_refused_though_its_name_is_known() -> None:
    found = reasons("g (float[3] a) => (float[3] y) { y = t.Relu(a) }", imports=', "t": 1')
    assert len(found) == 1
    assert "t.Relu is of a domain" in found[0]


def test_a_newer_operator_set_than_the_tables_is_refused() -> None:
    node = model("g (float[3] a) => (float[3] y) { y = Relu(a) }").graph[0]
    newer = operators.supports(node, {"": operators.NEWEST + 1}, RTX)
    assert isinstance(newer, No)
    assert "operator set" in newer.reason
    assert isinstance(operators.supports(node, {"": operators.NEWEST}, RTX), Yes)


def test_bodies_inside_are_walked() -> None:
    graph = (
        "g (float[3] a, bool c) => (float[3] y) { y = If(c) <then_branch = t () => (float[3] p) { p = Neg(a) },"
        " else_branch = e () => (float[3] q) { q = Bernoulli(a) }> }"
    )
    assert [reason.split()[0] for reason in reasons(graph)] == ["Bernoulli"]


def test_a_kernel_that_one_target_has_is_refused_by_the_other_and_named() -> None:
    graph = (
        "g (float[1,3,4] a, float[1,1,3] b) => (int64[n,3] y) { m = Constant<value_ints=[3]>()"
        " o = Constant<value_float=0.5>() l = Constant<value_float=0.1>() y = NonMaxSuppression(a, b, m, o, l) }"
    )
    assert reasons(graph, flavour=FULL) == []
    assert reasons(graph) == ["NonMaxSuppression has no kernel in tensorrt-rtx; tensorrt has one"]


@pytest.mark.parametrize("flavour", [RTX, FULL])
def test_coverage_is_sorted_and_names_known_operators(flavour: str) -> None:
    rows = operators.coverage(flavour)
    names = [row.operator for row in rows]
    assert names == sorted(set(names))
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {name for name in names if "." not in name} <= known
    assert {"Attention", "MatMul", "trt.TRT_Attention", "ingot.skip_norm"} <= set(names)
    assert all(row.how for row in rows)
    assert ("NonMaxSuppression" in names) == (flavour == FULL)


def test_every_listed_attribute_is_one_of_the_operator() -> None:
    known: dict[str, set[str]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            known.setdefault(schema.name, set()).update(schema.attributes)
    wrong = {
        name: set(row.attributes.split()) - known[name]
        for name, row in operators._TABLE.items()
        if "." not in name and set(row.attributes.split()) - known[name]
    }
    assert wrong == {}


WRAPPED = "z = Constant<value_int=0>() s = Constant<value_int=3>() l = Less(i, z) m = Add(i, s) "
SIGNS: Sequence[tuple[str, bool]] = [
    ("j = Constant<value_ints=[0, 2]>()", True),
    ("j = Constant<value_ints=[0, -2]>()", False),
    ("j = Identity(i)", False),
    ("j = Abs(i)", True),
    (f"{WRAPPED} j = Where(l, m, i)", True),
    (f"{WRAPPED} j = Where(l, i, m)", False),
    ("h = Shape(a) j = Cast<to = 7>(h)", True),
    ("j = ArgMax(a)", True),
    ("z = Constant<value_int=1>() h = Shape(a) j = Sub(h, z)", False),
    ("z = Constant<value_int=0>() j = Max(i, z)", True),
    ("z = Constant<value_int=0>() j = Min(i, z)", False),
    ("z = Constant<value_int=5>() j = Mod(i, z)", True),
    ("z = Constant<value_int=5>() h = Neg(z) j = Mod(i, h)", False),
    ("z = Constant<value_int=0>() j = Clip(i, z)", True),
]


@pytest.mark.parametrize(("body", "expected"), SIGNS)
def test_indices_that_count_from_the_front_are_known(body: str, expected: bool) -> None:
    made = model(f"g (float[3,4] a, int64[2] i) => (int64[n] j) {{ {body} }}")
    assert never_negative(made.graph.outputs[0]) is expected


def test_what_only_dims_are_read_of_is_unread() -> None:
    made = model("g (float[3,4] a, float[3] b, float[3] c) => (int64[2] y, float[3] z) { y = Shape(a) z = Neg(b) }")
    assert operators.unread_inputs(made) == ["a", "c"]
