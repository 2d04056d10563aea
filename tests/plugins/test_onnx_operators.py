"""The ONNX side: schemas, and function bodies that a stock ONNX Runtime runs as the reference defines."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_ir.passes.common import InlinePass

from ingot.errors import UnsupportedOperatorError
from ingot.ir.provenance import SOURCE
from ingot.plugins.declaration import DOMAIN, Cell, matrix
from ingot.plugins.onnx_operators import attach_bodies, register_schemas
from ingot.plugins.skip_norm.declaration import SKIP_NORM
from ingot.plugins.skip_norm.reference import skip_norm
from ingot.runtime.metrics import measure

CELLS = matrix(SKIP_NORM, {"B": 2, "S": 3})
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def model(
    dtype: str = "float32",
    inputs: tuple[str, ...] = ("x", "residual", "weight"),
    sizes: dict[str, Any] | None = None,
    **attributes: Any,
) -> ir.Model:
    """A graph of one call, with its body."""
    kind = ir.DataType.from_numpy(np.dtype(DTYPES[dtype]))
    sizes = sizes or {"B": "B", "S": "S", "H": 8}
    given = {
        spec.name: ir.Value(
            name=spec.name, type=ir.TensorType(kind), shape=ir.Shape([sizes[letter] for letter in spec.dims])
        )
        for spec in SKIP_NORM.inputs
        if spec.name in inputs
    }
    node = ir.node(
        "skip_norm",
        [given.get(spec.name) for spec in SKIP_NORM.inputs],
        attributes=attributes,
        domain=DOMAIN,
        num_outputs=2,
    )
    node.metadata_props[SOURCE] = "model.py:7: y, r = skip_norm(x, r, w)"
    for spec, value in zip(SKIP_NORM.outputs, node.outputs, strict=True):
        value.name, value.type = spec.name, ir.TensorType(kind)
        value.shape = ir.Shape([sizes[letter] for letter in spec.dims])
    graph = ir.Graph(
        list(given.values()), node.outputs, nodes=[node], opset_imports={"": 24, DOMAIN: 1}, name="one_call"
    )
    return ir.Model(graph, ir_version=13)


def run(built: ir.Model, inputs: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(ir.to_proto(built).SerializeToString())
    # numpy has no bfloat16 of its own: ONNX Runtime takes and gives it as OrtValue.
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
        if array.dtype == ml_dtypes.bfloat16
        else onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for name, array in inputs.items()
    }
    return session.run_with_ort_values(None, values)


def as_numpy(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    if dtype != "bfloat16":
        return np.asarray(value.numpy())
    bits = (ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr())
    return np.array(bits, np.uint16).view(ml_dtypes.bfloat16).reshape(value.shape())


def draw(cell: Cell, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.normal(1, 1, [cell.dims[letter] for letter in spec.dims]).astype(DTYPES[cell.dtype])
        for spec in SKIP_NORM.inputs
        if not spec.optional or spec.name in cell.given
    }


def reference(inputs: dict[str, np.ndarray[Any, Any]], **attributes: Any) -> list[np.ndarray[Any, Any]]:
    tensors = {
        name: torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
        if array.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(array)
        for name, array in inputs.items()
    }
    return [
        tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        for tensor in skip_norm(**tensors, **attributes)
    ]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_body_computes_what_the_reference_does(cell: Cell, seed: int) -> None:
    inputs = draw(cell, seed)
    built = model(cell.dtype, tuple(inputs), {"B": "B", "S": "S", "H": cell.dims["H"]}, epsilon=0.25, **cell.chosen)
    assert attach_bodies(built)
    onnx.checker.check_model(ir.to_proto(built), full_check=True)
    got = [as_numpy(value, cell.dtype) for value in run(built, inputs)]
    expected = reference(inputs, epsilon=0.25, **cell.chosen)
    assert got[1].tobytes() == expected[1].tobytes()
    stored = np.uint16 if cell.dtype == "bfloat16" else DTYPES[cell.dtype]
    assert measure(expected[0].view(stored), got[0].view(stored), cell.dtype).holds


def test_the_norm_is_over_the_rounded_sum() -> None:
    built = model("float16", kind="layer", sizes={"B": "B", "S": "S", "H": 4})
    attach_bodies(built)
    x, residual = np.full((1, 1, 4), 1024, np.float16), np.array([[[0.25, 0.0, -0.25, 0.1]]], np.float16)
    y, total = run(built, {"x": x, "residual": residual, "weight": np.ones(4, np.float16)})
    assert np.array_equal(total.numpy(), x)
    assert np.array_equal(y.numpy(), np.zeros_like(x))


def test_the_body_inlined_gives_the_same_bits(seed: int) -> None:
    cell = CELLS[7]
    inputs = draw(cell, seed)
    built = model(cell.dtype, tuple(inputs), {"B": "B", "S": "S", "H": cell.dims["H"]}, **cell.chosen)
    attach_bodies(built)
    called = [value.numpy() for value in run(built, inputs)]
    InlinePass()(built)
    assert {node.domain for node in built.graph} == {""}
    assert not built.functions
    assert [value.numpy().tobytes() for value in run(built, inputs)] == [array.tobytes() for array in called]


def test_two_variants_in_one_model_have_two_bodies(seed: int) -> None:
    built = model(inputs=("x", "residual", "weight", "bias"), kind="layer")
    first = built.graph[0]
    second = ir.node("skip_norm", [*first.outputs, first.inputs[2]], domain=DOMAIN, num_outputs=2)
    second.outputs[0].name, second.outputs[1].name = "y2", "sum2"
    built.graph.append(second)
    built.graph.outputs[0] = second.outputs[0]
    second.outputs[0].type, second.outputs[0].shape = first.outputs[0].type, first.outputs[0].shape
    attach_bodies(built)
    assert [node.overload for node in built.graph] == ["layer-bias", "rms"]
    assert {identifier[2] for identifier in built.functions} == {"layer-bias", "rms"}
    cell = Cell("float32", {"B": 2, "S": 3, "H": 8}, {}, ("bias",), "")
    inputs = draw(cell, seed)
    y, total = reference(inputs, epsilon=1e-6, kind="layer")
    expected = reference({"x": y, "residual": total, "weight": inputs["weight"]}, epsilon=1e-6, kind="rms")
    assert measure(expected[0], run(built, inputs)[0].numpy(), "float32").holds


def test_attaching_fills_in_defaults_and_cuts_absent_inputs() -> None:
    built = model()
    assert len(built.graph[0].inputs) == 4
    attach_bodies(built)
    node = built.graph[0]
    assert len(node.inputs) == 3
    assert node.attributes["epsilon"].value == pytest.approx(1e-6)
    assert node.attributes["kind"].value == "rms"


def test_a_model_without_our_operators_stays_as_it_is() -> None:
    built = ir.from_proto(
        onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 24]> g (float[2] x) => (float[2] y) {y = Relu(x)}')
    )
    assert not attach_bodies(built)
    assert not built.functions
    assert built.opset_imports == {"": 24}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: model(kind="batch"), "kind is 'batch'"),
        (lambda: model(epsilon=-1.0), "epsilon is -1.0"),
        (lambda: model(sizes={"B": "B", "S": "S", "H": 20000}), "H is 20000"),
        (lambda: model(inputs=("x", "residual")), "without its input weight"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_with_the_users_line(build: Any, text: str) -> None:
    with pytest.raises(UnsupportedOperatorError) as error:
        attach_bodies(build())
    assert text in str(error.value)
    assert "model.py:7: y, r = skip_norm(x, r, w)" in str(error.value)


def test_onnx_knows_the_schema() -> None:
    register_schemas()
    schema = onnx.defs.get_schema("skip_norm", SKIP_NORM.version, DOMAIN)
    assert [parameter.name for parameter in schema.inputs] == ["x", "residual", "weight", "bias"]
    assert [parameter.name for parameter in schema.outputs] == ["y", "sum"]
    assert schema.attributes["kind"].default_value.s == b"rms"
    assert (schema.min_input, schema.max_input) == (3, 4)


def test_the_checker_refuses_a_wrong_dtype_by_the_schema() -> None:
    register_schemas()
    proto = ir.to_proto(model())
    for value in proto.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    with pytest.raises(onnx.shape_inference.InferenceError, match="skip_norm"):
        onnx.checker.check_model(proto, full_check=True)
