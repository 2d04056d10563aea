"""The interface of a parsed network, held to what the lowered graph declares."""

from __future__ import annotations

from typing import Any

import pytest

from ingot.backends.tensorrt.child.audit import audit

trt = pytest.importorskip("tensorrt_rtx", reason="a network is made by its bindings")

DECLARED = {
    "inputs": [["x", "float32", ["batch", 4]], ["y", "float32", [1, 4]]],
    "outputs": [["z", "float32", ["batch", 4]]],
}


def network(*, dtype: Any = None, size: int = 4, reads: bool = True, name: str = "z") -> Any:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    made = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = made.add_input("x", dtype or trt.float32, (-1, size))
    y = made.add_input("y", dtype or trt.float32, (1, size))
    other = y if reads else x
    out = made.add_elementwise(x, other, trt.ElementWiseOperation.SUM).get_output(0)
    out.name = name
    made.mark_output(out)
    return made


def test_a_network_that_keeps_the_interface_passes() -> None:
    assert audit(network(), DECLARED) == []


def test_an_input_that_nothing_reads_is_told() -> None:
    assert audit(network(reads=False), DECLARED) == ["the parser left nothing that reads the input y"]


def test_an_input_that_the_graph_does_not_read_either_is_no_fault() -> None:
    assert audit(network(reads=False), {**DECLARED, "unread": ["y"]}) == []


def test_a_narrowed_dtype_is_told() -> None:
    found = audit(network(dtype=trt.float16), DECLARED)
    assert "the parser made the input x float16, declared is float32" in found
    assert "the parser made the output z float16, declared is float32" in found


def test_a_fixed_dim_that_differs_is_told() -> None:
    found = audit(network(size=5), DECLARED)
    assert "the parser made the input y [1, 5], declared is [1, 4]" in found


def test_a_rank_that_differs_is_told() -> None:
    declared = {**DECLARED, "outputs": [["z", "float32", ["batch"]]]}
    assert audit(network(), declared) == ["the parser made the output z of rank 2, declared is 1"]


def test_a_renamed_output_is_told_twice() -> None:
    assert audit(network(name="w"), DECLARED) == [
        "the parser made an output w that the graph does not declare",
        "the parser dropped the output z",
    ]


def test_another_order_of_inputs_is_told() -> None:
    declared = {**DECLARED, "inputs": DECLARED["inputs"][::-1]}
    assert audit(network(), declared) == ["the parser made the inputs in the order x, y, not y, x"]
