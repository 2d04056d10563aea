"""The cpu target's compile side: coverage is ONNX Runtime's own, weights lie outside the graph, bytes repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.contract import BuildOptions, No, Yes
from ingot.backends.cpu.build import BUILDER, GRAPH
from ingot.errors import UnsupportedOperatorError
from ingot.ir.provenance import MODULE, SOURCE
from ingot.signature import Signature

OPTIONS = BuildOptions(threads=1, folder=Path("unused"), signature=Signature((), (), (), {}, {}))


def model(graph: str, opset: int = 24, **weights: np.ndarray[Any, Any]) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["": {opset}]> {graph}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(proto)


def node(operator: str, dtype: ir.DataType, domain: str = "", opset: int = 24) -> ir.Node:
    value = ir.Value(name="x", type=ir.TensorType(dtype))
    made = ir.node(operator, [value], domain=domain)
    ir.Graph([value], made.outputs, nodes=[made], opset_imports={domain: opset})
    return made


@pytest.mark.parametrize("operator", ["MatMul", "Gelu", "Attention", "LayerNormalization"])
def test_supports_what_has_a_kernel(operator: str) -> None:
    assert BUILDER.supports(node(operator, ir.DataType.FLOAT), {"": 24}) == Yes("ONNX Runtime kernel")


@pytest.mark.parametrize(("dtype", "taken"), [(ir.DataType.FLOAT, True), (ir.DataType.FLOAT16, False)])
def test_a_kernel_is_judged_by_the_dtype_of_every_input(dtype: ir.DataType, taken: bool) -> None:
    """Of Where, the kernel names the type of the choices; its condition is always bool."""
    condition = ir.Value(name="c", type=ir.TensorType(ir.DataType.BOOL))
    choices = [ir.Value(name=name, type=ir.TensorType(dtype)) for name in "ab"]
    made = ir.node("Where", [condition, *choices])
    ir.Graph([condition, *choices], made.outputs, nodes=[made], opset_imports={"": 24})
    assert isinstance(BUILDER.supports(made, {"": 24}), Yes) == taken


def test_supports_what_onnx_defines_by_other_operators() -> None:
    (row,) = (row for row in BUILDER.coverage() if row.operator == "Swish")
    assert row.how == "defined by other ONNX operators"
    assert BUILDER.supports(node("Swish", ir.DataType.FLOAT), {"": 24}) == Yes(row.how)


def test_refuses_an_operator_or_a_dtype_without_a_kernel_and_says_why() -> None:
    unknown = BUILDER.supports(node("NoSuchOperator", ir.DataType.FLOAT), {"": 24})
    assert isinstance(unknown, No)
    assert "no CPU kernel for NoSuchOperator" in unknown.reason
    dtype = BUILDER.supports(node("Softmax", ir.DataType.BFLOAT16), {"": 24})
    assert isinstance(dtype, No)
    assert "does not take bfloat16" in dtype.reason


def test_refuses_a_kernel_that_is_older_than_the_operators_definition() -> None:
    """ONNX Runtime 1.31 has RandomUniformLike for operator sets 1 to 21, and lists that kernel without an end."""
    answer = BUILDER.supports(node("RandomUniformLike", ir.DataType.FLOAT), {"": 24})
    assert isinstance(answer, No)
    assert "operator set 24" in answer.reason
    assert isinstance(BUILDER.supports(node("RandomUniformLike", ir.DataType.FLOAT, opset=20), {"": 20}), Yes)


def test_the_coverage_table_holds_what_supports_says() -> None:
    rows = BUILDER.coverage()
    assert [row.operator for row in rows] == sorted(row.operator for row in rows)
    assert any(row.operator == "MatMul" and row.high is None and "float" in row.dtypes for row in rows)
    assert not any(row.operator == "NoSuchOperator" for row in rows)


def test_all_unsupported_nodes_are_named_at_once_with_their_lines() -> None:
    wrong = model("g (bfloat16[N] x) => (bfloat16[N] y) { a = Softmax(x)  b = Abs(a)  y = Softmax(b) }")
    for index, made in enumerate(wrong.graph):
        made.metadata_props.update({MODULE: "head", SOURCE: f"model.py:{index + 1}: softmax(x)"})
        made.outputs[0].type = ir.TensorType(ir.DataType.BFLOAT16)
    with pytest.raises(UnsupportedOperatorError) as caught:
        BUILDER.build(wrong, OPTIONS)
    assert "model.py:1" in caught.value.what
    assert "model.py:3" in caught.value.what


def test_nothing_of_the_machine_is_in_the_graph_and_it_is_the_same_each_time() -> None:
    text = "g (float[N] x) => (float[N] y) { y = Neg(x) }"
    graphs = []
    for line in ("/somewhere/model.py:1", "/elsewhere/model.py:9"):
        made = model(text)
        next(iter(made.graph)).metadata_props[SOURCE] = line
        made.producer_name = line
        (graph,) = (part for part in BUILDER.build(made, OPTIONS).parts if part.name == GRAPH)
        graphs.append(b"".join(bytes(chunk) for chunk in graph.chunks()))
    assert graphs[0] == graphs[1]
    onnxruntime.InferenceSession(graphs[0])
