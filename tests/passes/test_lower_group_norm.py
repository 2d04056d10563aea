"""lower_group_norm: all channels of a sample have one mean."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.tensorrt.lowering.lower_group_norm import LowerGroupNorm
from ingot.ir.provenance import MODULE
from ingot.passes.contract import run_passes
from ingot.runtime.metrics import measure

GRAPH = """g ({dtype}[B, 4, S, 3] x, {dtype}[4] s, {dtype}[4] b) => ({dtype}[B, 4, S, 3] y) {{
    y = GroupNormalization <num_groups = {groups}{more}> (x, s, b) }}"""


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("more", ["", ", epsilon = 0.1"])
def test_rewrites(build, seed: int, dtype: str, more: str) -> None:
    text = GRAPH.format(dtype=dtype, groups=1, more=more)
    before, after = build(text), build(text)
    (report,) = run_passes(after, [LowerGroupNorm()])
    assert report.rewrites == 1
    assert all(MODULE in node.metadata_props for node in after.graph), "a node lost its origin"
    random, kind = np.random.default_rng(seed), "float32" if dtype == "float" else dtype
    given = {"x": random.standard_normal((2, 4, 5, 3)) * 2 + 1, "s": random.standard_normal(4), "b": random.random(4)}
    given = {name: array.astype(kind) for name, array in given.items()}
    old, new = (
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, given)[0]
        for model in (before, after)
    )
    assert measure(old, new, kind).holds
    (again,) = run_passes(after, [LowerGroupNorm()])
    assert again.rewrites == 0, "a second run changed something"


@pytest.mark.parametrize(
    ("groups", "more", "opset", "reason"),
    [(2, "", 23, "several groups"), (1, ", stash_type = 10", 23, "another dtype"), (1, "", 18, "too old")],
)
def test_declines(declines, groups: int, more: str, opset: int, reason: str) -> None:
    text = GRAPH.format(dtype="float", groups=groups, more=more)
    declines(
        LowerGroupNorm(),
        text if opset > 20 else text.replace("[4] s", "[1] s").replace("[4] b", "[1] b"),
        opset=opset,
        reason=reason,
    )
