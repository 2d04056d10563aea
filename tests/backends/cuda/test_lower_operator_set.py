"""lower_operator_set: an older operator set where the CUDA kernels are for that, and only where it means the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends.cuda.lower_operator_set import LowerOperatorSet
from ingot.backends.cuda.placement import place
from ingot.passes.contract import run_passes

Model = Callable[..., ir.Model]

POOL = "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


@pytest.mark.parametrize(
    "body",
    [
        f"a = Relu(x)  {POOL} (a)",
        "a = Elu <alpha = 0.5> (x)  y = Abs(a)",
        "a = Selu(x)  b = ThresholdedRelu <alpha = 0.1> (a)  y = LeakyRelu(b)",
        "a = Cast <to = 1> (x)  y = Elu(a)",
    ],
)
def test_rewrites_to_a_set_that_has_kernels_and_the_same_numbers(model: Model, body: str, seed: int) -> None:
    made = model(f"g (float[N, 3, 8, 8] x) => (float[N, 3, h, w] y) {{ {body} }}")
    x = np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)
    before = run(made, x)
    assert place(made).nowhere
    (report,) = run_passes(made, [LowerOperatorSet()])
    assert report.rewrites == 1
    assert made.opset_imports[""] == 21
    assert place(made).nowhere == []
    assert np.array_equal(run(made, x), before)
    (again,) = run_passes(made, [LowerOperatorSet()])
    assert again.rewrites == 0, "a second run changed something"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) { y = Relu(x) }", None),
        (f"g (float[1, 2, 4, 8] x) => (float[1, 2, 2, 4] y) {{ a = Attention(x, x, x)  {POOL} (a) }}", "Attention"),
        (
            "g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y)"
            f' {{ a = Cast <to = 1, round_mode = "up"> (x)  {POOL} (a) }}',
            "Cast",
        ),
        ("g (float[N] x) => (float[N] y) { y = Tan(x) }", None),
    ],
)
def test_declines(model: Model, graph: str, reason: str | None) -> None:
    made = model(graph)
    (report,) = run_passes(made, [LowerOperatorSet()])
    assert report.rewrites == 0
    assert made.opset_imports[""] == 24
    if reason is None:
        assert report.declined == ()
    else:
        (said,) = report.declined
        assert said.startswith("MaxPool")
        assert f"{reason} has another definition there" in said


def test_declines_where_another_node_would_lose_its_kernel(model: Model) -> None:
    """Conv takes bfloat16 from operator set 22 on."""
    made = model(
        """g (float[1, 1, 4, 4] x, bfloat16[1, 1, 4, 4] c, bfloat16[1, 1, 1, 1] w)
            => (float[1, 1, 2, 2] y, bfloat16[1, 1, 4, 4] z) { """
        f"{POOL} (x)  z = Conv(c, w) }}"
    )
    (report,) = run_passes(made, [LowerOperatorSet()])
    assert report.rewrites == 0
    assert "Conv has" in report.declined[0]
