"""lower_reciprocal: what has no CUDA kernel in bfloat16 becomes what has one."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from ingot.backends.contract import No, Yes
from ingot.backends.cuda.kernels import kernel_for
from ingot.backends.cuda.lower_reciprocal import LowerReciprocal
from ingot.passes.contract import run_passes
from ingot.passes.infer_shapes import InferShapes


def model(dtype: str) -> ir.Model:
    text = f"g ({dtype}[N] x) => ({dtype}[N] y) {{ y = Reciprocal(x) }}"
    made = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}'))
    run_passes(made, [InferShapes()])
    return made


def test_rewrites(seed: int) -> None:
    import ml_dtypes
    import numpy as np

    before, after = model("bfloat16"), model("bfloat16")
    assert isinstance(kernel_for(before.graph[0], 23), No), "without it there would be nothing to do"
    assert run_passes(after, [LowerReciprocal()])[0].rewrites == 1
    (node,) = after.graph
    assert isinstance(kernel_for(node, 23), Yes)
    x = np.random.default_rng(seed).standard_normal(99).astype(ml_dtypes.bfloat16)
    old, new = (ReferenceEvaluator(ir.to_proto(each)).run(None, {"x": x})[0] for each in (before, after))
    assert old.tobytes() == new.tobytes()
    assert run_passes(after, [LowerReciprocal()])[0].rewrites == 0


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_declines_what_has_a_kernel(dtype: str) -> None:
    (report,) = run_passes(model(dtype), [LowerReciprocal()])
    assert report.rewrites == 0
    assert any("has a kernel" in str(reason) for reason in report.declined)
