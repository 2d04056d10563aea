"""What every pass is held to: rewrites, declined near misses, equal numbers, and a second run that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.ir.provenance import MODULE
from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import Pass, PassReport, run_passes
from ingot.passes.infer_shapes import InferShapes

Array = np.ndarray[Any, Any]
Build = Callable[..., ir.Model]

# The sizes that named dims take: alike, one alone, and unlike. K is the length of keys and values.
SIZES = ({"B": 2, "S": 2, "K": 2}, {"B": 1, "S": 5, "K": 1}, {"B": 3, "S": 4, "K": 7})


@pytest.fixture
def build() -> Build:
    """A model from `graph`, ONNX's text from the graph's name on, and weights by name; shapes inferred, and every
    node with the module path that it is told by afterwards."""

    def from_text(graph: str, *, opset: int = 23, infer: bool = True, **weights: Array) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]> {graph}')
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        model = ir.from_proto(proto)
        for node in all_nodes(model):
            node.metadata_props[MODULE] = f"module.{node.outputs[0].name}"
        if infer:
            run_passes(model, [InferShapes()])
        return model

    return from_text


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    """By ONNX Runtime as written: its own rewrites are off, and with them the packing of constant weights, which
    rounds a product otherwise than that of a computed weight."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return list(session.run(None, inputs))


def draw(model: ir.Model, sizes: dict[str, int], generator: np.random.Generator) -> dict[str, Array]:
    inputs = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        assert value.name is not None
        shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in value.shape]
        if value.dtype == ir.DataType.BOOL:
            inputs[value.name] = generator.integers(0, 2, shape).astype(bool)
        elif value.dtype.is_integer():
            inputs[value.name] = generator.integers(0, 2, shape).astype(value.dtype.numpy())
        else:
            inputs[value.name] = generator.standard_normal(shape).astype(value.dtype.numpy())
    return inputs


def same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture
def same_numbers(seed: int) -> Callable[[ir.Model, ir.Model], None]:
    """Runs two models on the same fresh inputs, at several sizes; `exact` means the same bits."""
    generator = np.random.default_rng(seed)

    def compare(before: ir.Model, after: ir.Model) -> None:
        for sizes in SIZES:
            inputs = draw(before, sizes, generator)
            for old, new in zip(run(before, inputs), run(after, inputs), strict=True):
                assert same(old, new), f"numbers differ at {sizes}"

    return compare


@dataclass
class Checked:
    """A model after a pass, and what the pass said."""

    model: ir.Model
    report: PassReport

    @property
    def operators(self) -> list[str]:
        return operators(self.model)

    def node(self, operator: str) -> ir.Node:
        (found,) = (node for node in all_nodes(self.model) if node.op_type == operator)
        return found

    def constant(self, value: ir.Value | None) -> Any:
        assert value is not None
        assert value.const_value is not None
        return value.const_value.numpy().tolist()


@pytest.fixture
def rewrites(build: Build, same_numbers: Callable[[ir.Model, ir.Model], None]) -> Callable[..., Checked]:
    """Runs one pass that must rewrite, and holds the result to the contract."""

    def check(rewrite: Pass, graph: str, *, infer: bool = True, opset: int = 23, **weights: Array) -> Checked:
        before = build(graph, infer=infer, opset=opset, **weights)
        after = build(graph, infer=infer, opset=opset, **weights)
        (report,) = run_passes(after, [rewrite])
        assert report.rewrites > 0
        assert report.nodes_after == after.graph.num_nodes()
        assert all(MODULE in node.metadata_props for node in all_nodes(after)), "a node lost its origin"
        same_numbers(before, after)
        (again,) = run_passes(after, [rewrite])
        assert again.rewrites == 0, "a second run changed something"
        return Checked(after, report)

    return check


@pytest.fixture
def declines(build: Build) -> Callable[..., None]:
    """Runs one pass that must leave the graph alone and, where `reason` is given, say why."""

    def check(
        rewrite: Pass, graph: str, *, reason: str = "", infer: bool = True, opset: int = 23, **weights: Array
    ) -> None:
        model = build(graph, infer=infer, opset=opset, **weights)
        before = operators(model)
        (report,) = run_passes(model, [rewrite])
        assert report.rewrites == 0
        assert operators(model) == before
        if reason:
            assert any(reason in text for text in report.declined), report.declined
        else:
            assert not report.declined

    return check


@pytest.fixture
def weight(seed: int) -> Callable[[Sequence[int]], Array]:
    generator = np.random.default_rng(seed)
    return lambda shape: generator.standard_normal(shape).astype(np.float32)
