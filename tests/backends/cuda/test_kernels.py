"""Which nodes the CUDA provider takes: the table, its dtypes taken together, and the attributes that it turns down."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from ingot.backends.contract import No, Yes
from ingot.backends.cuda.build import BUILDER
from ingot.backends.cuda.kernels import kernel_for, kernels

Model = Callable[..., ir.Model]


def node_of(model: Model, graph: str, opset: int = 24) -> ir.Node:
    made: ir.Node = model(graph, opset).graph[-1]
    return made


def refused(model: Model, graph: str, opset: int = 24) -> str:
    answer = kernel_for(node_of(model, graph, opset), opset)
    assert isinstance(answer, No)
    return answer.reason


@pytest.mark.parametrize(
    "graph",
    [
        "g (float[N, 4] x) => (float[N, 4] y) { y = Softmax(x) }",
        "g (bfloat16[N, 4] x) => (bfloat16[N, 4] y) { y = Softmax(x) }",
        "g (float16[B, 2, S, 8] q, bool[S, S] m) => (float16[B, 2, S, 8] y) { y = Attention(q, q, q, m) }",
        "g (float[N, 4] x, float16[4] s) => (float[N, 4] y) { y = RMSNormalization(x, s) }",
        "g (int64[N] x) => (int64[1] y) { y = Shape(x) }",
    ],
)
def test_takes_what_has_a_kernel(model: Model, graph: str) -> None:
    assert kernel_for(node_of(model, graph), 24) == Yes("ONNX Runtime kernel")


def test_an_operator_without_a_kernel_is_refused(model: Model) -> None:
    text = "g (float[N] x) => (float[N] y) { y = Tan(x) }"
    assert refused(model, text) == "ONNX Runtime has no CUDA kernel for Tan of operator set 24"


def test_a_kernel_that_is_older_than_the_operators_definition_does_not_count(model: Model) -> None:
    text = (
        "g (float[1, 1, 8, 8] x) => (float[1, 1, 4, 4] y) { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"
    )
    assert "no CUDA kernel for MaxPool of operator set 24" in refused(model, text)
    assert kernel_for(node_of(model, text, 21), 21) == Yes("ONNX Runtime kernel")


def test_dtypes_are_judged_together_and_not_by_the_first_input_alone(model: Model) -> None:
    """One kernel has float16 with a mask of float16, another float with float: none has the mixture."""
    mixed = "g (float16[B, 2, S, 8] q, float[S, S] m) => (float16[B, 2, S, 8] y) { y = Attention(q, q, q, m) }"
    node = node_of(model, mixed.replace("float[S", "float16[S"))
    assert isinstance(kernel_for(node, 24), Yes)
    mask = node.inputs[3]
    assert mask is not None
    mask.type = ir.TensorType(ir.DataType.FLOAT)
    answer = kernel_for(node, 24)
    assert isinstance(answer, No)
    assert answer.reason == "ONNX Runtime's CUDA kernel for Attention does not take float16, float"


def test_the_dtype_of_a_result_counts_too(model: Model) -> None:
    assert "does not take float, string" in refused(model, "g (float[N] x) => (string[N] y) { y = Cast <to = 8> (x) }")


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("g (float[N, 4] x) => (int64[N] y) { y = ArgMax <select_last_index = 1> (x) }", "select_last_index=1"),
        (
            "g (float[1, 2, 5] x, float[2, 2, 3] w) => (float[1, 2, n] y) { y = ConvTranspose <pads = [0, 1]> (x, w) }",
            "pads=[0, 1], which differ",
        ),
        (
            "g (float[1, 2, 5] x, float[2, 2, 3] w) => (float[1, 2, n] y)"
            ' { y = ConvTranspose <auto_pad = "SAME_UPPER"> (x, w) }',
            "auto_pad=SAME_UPPER",
        ),
        (
            "g (float[S, B, 4] x, float[1, 24, 4] w, float[1, 24, 8] r) => (float[S, 1, B, 8] y)"
            " { y = GRU <hidden_size = 8> (x, w, r) }",
            "linear_before_reset=0",
        ),
        (
            "g (float[S, B, 4] x, float[1, 8, 4] w, float[1, 8, 8] r) => (float[S, 1, B, 8] y)"
            ' { y = RNN <hidden_size = 8, activations = ["Relu"]> (x, w, r) }',
            "activations=['relu']",
        ),
        (
            "g (float[S, B, 4] x, float[1, 32, 4] w, float[1, 32, 8] r, float[1, 24] p) => (float[S, 1, B, 8] y)"
            " { y = LSTM <hidden_size = 8> (x, w, r, , , , , p) }",
            "peepholes",
        ),
        (
            "g (float[S, B, 4] x, float[1, 32, 4] w, float[1, 32, 8] r) => (float[S, 1, B, 8] y)"
            " { y = LSTM <hidden_size = 8, clip = 1.0> (x, w, r) }",
            "clip",
        ),
    ],
)
def test_attributes_that_the_provider_turns_down(model: Model, graph: str, reason: str) -> None:
    assert reason in refused(model, graph)


def test_the_same_nodes_without_those_attributes_are_taken(model: Model) -> None:
    for graph in (
        "g (float[N, 4] x) => (int64[N] y) { y = ArgMax(x) }",
        "g (float[1, 2, 5] x, float[2, 2, 3] w) => (float[1, 2, n] y) { y = ConvTranspose <pads = [1, 1]> (x, w) }",
        "g (float[S, B, 4] x, float[1, 32, 4] w, float[1, 32, 8] r) => (float[S, 1, B, 8] y)"
        " { y = LSTM <hidden_size = 8> (x, w, r) }",
        "g (float[S, B, 4] x, float[1, 24, 4] w, float[1, 24, 8] r) => (float[S, 1, B, 8] y)"
        " { y = GRU <hidden_size = 8, linear_before_reset = 1> (x, w, r) }",
    ):
        assert isinstance(kernel_for(node_of(model, graph), 24), Yes), graph


def test_another_domain_is_not_used() -> None:
    node = ir.node("FastGelu", [ir.Value(name="x")], domain="com.microsoft")
    assert isinstance(BUILDER.supports(node, {"com.microsoft": 1}), No)


def test_every_row_of_the_table_names_what_onnx_defines() -> None:
    """But for operators that ONNX Runtime keeps from before ONNX 1.0."""
    known = {
        (schema.name, schema.since_version) for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain
    }
    names = {name for name, _ in known}
    for operator, rows in kernels().items():
        for row in rows:
            assert row.high is None or row.low <= row.high
            if operator in names and row.high is None:
                assert (operator, row.low) in known or row.low == 1, (operator, row)


def test_the_coverage_table_is_what_supports_says() -> None:
    rows = BUILDER.coverage()
    assert [row.operator for row in rows] == sorted(row.operator for row in rows)
    (attention,) = (row for row in rows if row.operator == "Attention" and row.low == 24)
    assert attention.dtypes == ("bfloat16", "float", "float16")
    (select,) = (row for row in rows if row.operator == "Where" and row.high is None)
    assert "float16" in select.dtypes, "those of its values, not of its condition"
    assert not any(row.operator == "Tan" for row in rows)


def test_the_table_is_the_registry_of_the_installed_provider() -> None:
    """Where onnxruntime-gpu is installed and its provider loads, which takes the libraries of CUDA."""
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    if "CUDAExecutionProvider" not in state.get_available_providers():
        pytest.skip("needs onnxruntime-gpu, whose provider needs a GPU's libraries")
    listed = {
        (kernel.op_name, kernel.version_range[0])
        for kernel in state.get_all_opkernel_def()
        if kernel.provider == "CUDAExecutionProvider" and not kernel.domain and not kernel.op_name.startswith("Memcpy")
    }
    assert {(operator, row.low) for operator, rows in kernels().items() for row in rows} == listed
