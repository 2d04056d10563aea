"""expand_functions: ONNX's own definition where there is no CUDA kernel, with the same numbers and the user's line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.cuda.expand_functions import ExpandFunctions
from ingot.backends.cuda.placement import place
from ingot.ir.provenance import SOURCE
from ingot.passes.contract import run_passes
from ingot.passes.infer_shapes import InferShapes
from ingot.runtime.metrics import measure

Model = Callable[..., ir.Model]

NORM = """g (float[N, 6, H, W] x) => (float[N, 6, H, W] y) {
    a = Attention <q_num_heads = 1, kv_num_heads = 1> (z, z, z)
    n = GroupNormalization <num_groups = 3> (x, scale, bias)  m = GroupNormalization <num_groups = 2> (n, scale, bias)
    y = Add(m, a) }"""


def run(model: ir.Model, x: Any) -> Any:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def norms(model: Model, seed: int) -> ir.Model:
    draw = np.random.default_rng(seed).standard_normal
    weights = {name: draw(6).astype(np.float32) for name in ("scale", "bias")}
    made = model(NORM, z=draw((1, 1, 1)).astype(np.float32), **weights)
    for index, node in enumerate(made.graph):
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.metadata_props[SOURCE] = f"model.py:{index}"
    return made


def test_rewrites_to_kernels_and_the_same_numbers(model: Model, seed: int) -> None:
    made = norms(model, seed)
    x = np.random.default_rng(seed + 1).standard_normal((2, 6, 3, 5)).astype(np.float32)
    before = run(made, x)
    assert len(place(made).nowhere) == 2
    (report, _) = run_passes(made, [ExpandFunctions(), InferShapes()])
    assert report.rewrites == 2
    placed = place(made)
    assert placed.nowhere == []
    assert measure(before, run(made, x), "float32").holds
    assert {node.metadata_props.get(SOURCE) for node in made.graph} == {f"model.py:{index}" for index in range(4)}
    (again,) = run_passes(made, [ExpandFunctions()])
    assert again.rewrites == 0, "a second run changed something"


@pytest.mark.parametrize(
    ("graph", "declined"),
    [
        ("g (float[N] x) => (float[N] y) { y = Tan(x) }", 1),
        ("g (float[N] x) => (float[N] y) { y = Relu(x) }", 0),
    ],
)
def test_declines(model: Model, graph: str, declined: int) -> None:
    (report,) = run_passes(model(graph), [ExpandFunctions()])
    assert report.rewrites == 0
    assert len(report.declined) == declined
