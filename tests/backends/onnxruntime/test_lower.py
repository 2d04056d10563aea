"""The graph as ONNX Runtime's kernels take it: no calls of functions, no nodes that are constants."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime

from ingot.backends.onnxruntime.lower import lower

TEXT = """<ir_version: 10, opset_import: ["": 21, "ingot": 1]>
g (float[n] x) => (float[n] y) { a = ingot.Twice(x)  k = Constant <value_floats = [3.0]> ()  y = Mul(a, k) }
<domain: "ingot", opset_import: ["": 21]>
Twice (v) => (w) { two = Constant <value_float = 2.0> ()  w = Mul(v, two) }"""


def test_functions_and_constants_are_gone_and_the_numbers_the_same(seed: int) -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    lowered = lower(model)
    assert [node.op_type for node in lowered.graph] == ["Mul", "Mul"]
    assert [node.op_type for node in model.graph] == ["Twice", "Constant", "Mul"], "the model itself stays as it is"
    x = np.random.default_rng(seed).standard_normal(7).astype(np.float32)
    data = ir.to_proto(lowered).SerializeToString()
    (found,) = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.array_equal(found, x * 2 * 3)
