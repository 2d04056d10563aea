"""Where ONNX Runtime puts each node: what follows from sizes stays on the processor, all else goes to the GPU.

Each expectation is what the CUDA provider of onnxruntime-gpu 1.31.1 itself recorded for the graph
(get_provider_graph_assignment_info).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ingot.backends.cuda.placement import place

Model = Callable[..., ir.Model]

X = "g (float[N, S, 4] x) => (float[A, B, C] y)"


@pytest.mark.parametrize(
    ("graph", "on_processor"),
    [
        # The size goes straight to a kernel that reads it in the processor's memory.
        (f"{X} {{ s = Shape(x)  y = Reshape(x, s) }}", {}),
        # Arithmetic on sizes.
        (f"{X} {{ s = Shape(x)  t = Add(s, s)  y = Expand(x, t) }}", {"Add": 1}),
        (f"{X} {{ s = Shape(x)  t = Mul(s, s)  u = Add(t, s)  y = Expand(x, u) }}", {"Add": 1, "Mul": 1}),
        # A size that meets what was computed on the GPU goes there.
        (
            "g (float[N, 4] x) => (float[N, 4] y) { s = Shape <end = 1> (x)  f = Cast <to = 1> (s)  y = Mul(x, f) }",
            {"Cast": 1, "Mul": 1},
        ),
        (
            "g (float[N, 4] x) => (float[N, 4] y)"
            " { s = Shape <end = 1> (x)  f = Cast <to = 1> (s)  z = Exp(x)  y = Mul(z, f) }",
            {"Cast": 1},
        ),
        # Half precision never stays.
        (
            "g (float16[N, 4] x) => (float16[N, 4] y)"
            " { s = Shape <end = 1> (x)  f = Cast <to = 10> (s)  h = Mul(f, f)  y = Mul(x, h) }",
            {"Cast": 1},
        ),
        # Without a size there is nothing to keep.
        ("g (int64[N] x) => (int64[N] y) { a = Add(x, x)  y = Mul(a, a) }", {}),
        # Range reads its bounds on the processor: it stays on the GPU, and so does what follows.
        ("g (float[N] x, int64 z, int64 o) => (int64[M] y) { n = Size(x)  r = Range(z, n, o)  y = Add(r, r) }", {}),
    ],
)
def test_the_place_of_every_node_is_known(model: Model, graph: str, on_processor: dict[str, int]) -> None:
    placed = place(model(graph))
    assert placed.on_processor() == on_processor
    assert placed.nowhere == []
    assert len(placed.gpu) + len(placed.processor) == model(graph).graph.num_nodes()


@pytest.mark.parametrize(("count", "on_processor"), [(100, {"Add": 1}), (101, {})])
def test_a_constant_counts_as_the_processors_up_to_a_hundred_elements(
    model: Model, count: int, on_processor: dict[str, int]
) -> None:
    text = f"g (float[N, 4] x) => (int64[{count}] y) {{ s = Shape <end = 1> (x)  y = Add(s, c) }}"
    assert place(model(text, c=np.arange(count))).on_processor() == on_processor


def test_arithmetic_on_sizes_needs_no_cuda_kernel(model: Model) -> None:
    """BitwiseAnd has no CUDA kernel: on sizes it stays on the processor, on anything else it runs nowhere."""
    sizes = "g (float[N, 4] x) => (int64[2] y) { s = Shape(x)  b = BitwiseAnd(s, s)  y = Neg(b) }"
    assert place(model(sizes)).on_processor() == {"BitwiseAnd": 1, "Neg": 1}
    values = "g (int64[N] x) => (int64[N] y) { b = BitwiseAnd(x, x)  y = Neg(b) }"
    (missing,) = place(model(values)).nowhere
    assert missing[0].op_type == "BitwiseAnd"
    both = "g (int64[N] x) => (int64[N] y) { s = Shape(x)  e = Abs(x)  y = BitwiseAnd(s, e) }"
    assert [node.op_type for node, _ in place(model(both)).nowhere] == ["BitwiseAnd"]


def test_bodies_are_placed_by_themselves(model: Model) -> None:
    placed = place(
        model(
            """g (float[N, 4] x, bool c) => (float[M, 4] y) {
                y = If (c) <
                    then_branch = a () => (float[K, 4] p) { s = Shape(x)  t = Add(s, s)  p = Expand(x, t) },
                    else_branch = b () => (float[L, 4] q) { q = Exp(x) }
                > }"""
        )
    )
    assert placed.on_processor() == {"Add": 1}
    assert sorted(node.op_type for node in placed.gpu) == ["Exp", "Expand", "If", "Shape"]
