"""lower: the graph for TensorRT is a copy, standard ONNX but for operators of `trt` that have a body each."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.tensorrt.lowering.lower import IR_VERSION, for_parser, lower
from ingot.backends.tensorrt.proof import for_onnxruntime, ort_session
from ingot.errors import BuildError, EngineError
from ingot.ir.checks import fingerprint
from ingot.ir.dump import readable
from ingot.runtime.metrics import measure
from ingot.signature import Signature, Tensor

ATTENDS = """g ({dtype}[B, S, 24] q) => ({dtype}[B, S, 24] y) {{
    a = Attention <q_num_heads = 3, kv_num_heads = 3, is_causal = 1> (q, q, q)
    b = Attention <q_num_heads = 3, kv_num_heads = 3> (a, a, a)  y = Add(a, b) }}"""


def model_of(text: str, **weights: np.ndarray[Any, Any]) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": 24]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(proto)


def signature_of(model: ir.Model) -> Signature:
    def tensors(values: Any) -> tuple[Tensor, ...]:
        return tuple(Tensor(value.name, str(value.dtype.numpy().name), ()) for value in values)

    return Signature(tensors(model.graph.inputs), tensors(model.graph.outputs), (), {}, {})


def test_the_graph_that_is_lowered_stays_as_it_is() -> None:
    model = model_of(ATTENDS.format(dtype="float"))
    before = fingerprint(model)
    lower(model)
    assert fingerprint(model) == before


def test_weights_are_shared() -> None:
    weight = np.ones((24, 24), np.float32)
    model = model_of("g (float[B, 24] x) => (float[B, 24] y) { y = MatMul(x, w) }", w=weight)
    lowered = lower(model)
    assert lowered.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_a_second_lowering_changes_nothing() -> None:
    once = lower(model_of(ATTENDS.format(dtype="float")))
    assert readable(lower(once)) == readable(once)


def test_bodies_are_for_onnx_runtime_and_not_for_the_parser() -> None:
    lowered = lower(model_of(ATTENDS.format(dtype="float")))
    used = {node.op_identifier() for node in lowered.graph if node.domain == "trt"}
    assert len(used) == 2, "causal and plain attention have bodies of their own"
    assert set(lowered.functions) == used
    bare = for_parser(lowered)
    assert not bare.functions
    assert [node.op_type for node in bare.graph] == [node.op_type for node in lowered.graph]
    assert lowered.functions, "the copy was stripped alone"
    assert lowered.ir_version <= IR_VERSION


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
def test_the_lowered_graph_computes_what_the_graph_does(seed: int, dtype: str) -> None:
    """Against ONNX Runtime's own attention in float32."""
    model = model_of(ATTENDS.format(dtype=dtype))
    lowered = lower(model)
    kind = {"float": np.dtype(np.float32), "float16": np.dtype(np.float16)}.get(dtype, np.dtype(ml_dtypes.bfloat16))
    x = np.random.default_rng(seed).standard_normal((2, 5, 24)).astype(kind)
    wide = ir.to_proto(model_of(ATTENDS.format(dtype="float"))).SerializeToString()
    (expected,) = onnxruntime.InferenceSession(wide).run(None, {"q": x.astype(np.float32)})
    session = ort_session(lowered, signature_of(lowered))
    (got,) = session.run([x.view(np.uint16) if dtype == "bfloat16" else x])
    expected = expected.astype(kind)
    expected = expected.view(np.uint16) if dtype == "bfloat16" else expected
    assert measure(expected, got, kind.name).holds


def test_a_proof_takes_large_weights_from_memory(seed: int) -> None:
    """Of each dtype that has a form of its own; every other stays in the graph."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((300, 300)).astype(np.float32)
    model = model_of("g (float[B, 300] x) => (float[B, 300] y) { c = Cast <to = 1> (w)  y = MatMul(x, c) }", w=weight)
    for kind in (np.float32, np.float16, ml_dtypes.bfloat16):
        stored = weight.astype(kind)
        model.graph.initializers["w"].const_value = ir.tensor(stored)
        model.graph.initializers["w"].dtype = ir.tensor(stored).dtype
        x = generator.standard_normal((4, 300)).astype(np.float32)
        (got,) = ort_session(model, signature_of(model)).run([x])
        assert measure(x @ stored.astype(np.float32), got, "float32").holds


def test_bfloat16_is_rounded_after_every_operator(seed: int) -> None:
    model = model_of("g (bfloat16[7] a, bfloat16[7] b) => (bfloat16[7] y) { s = Add(a, b)  y = Mul(s, s) }")
    a, b = np.random.default_rng(seed).standard_normal((2, 7)).astype(ml_dtypes.bfloat16)
    lowered = lower(model)
    (got,) = ort_session(lowered, signature_of(model)).run([a.view(np.uint16), b.view(np.uint16)])
    total = a + b
    assert np.array_equal(got, (total * total).view(np.uint16))
    assert {value.dtype for value in for_onnxruntime(lowered).graph.inputs} == {ir.DataType.FLOAT}


def test_what_onnx_runtime_does_not_run_is_said() -> None:
    model = model_of("g (float[B] x) => (float[B] y) { y = Neg(x) }")
    node = next(iter(model.graph))
    node.op_type = "Nog"
    with pytest.raises(BuildError, match="cannot be proven"):
        ort_session(model, signature_of(model))


def test_a_run_that_fails_and_a_closed_proof_are_engine_errors() -> None:
    model = model_of("g (float[B, 3] x) => (float[B, 4] y) { y = MatMul(x, w) }", w=np.ones((3, 4), np.float32))
    session = ort_session(model, signature_of(model))
    with pytest.raises(EngineError, match="failed while running"):
        session.run([np.ones((2, 5), np.float32)])
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run([np.ones((2, 3), np.float32)])
