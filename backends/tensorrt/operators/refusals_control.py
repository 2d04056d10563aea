"""Why TensorRT does not run a loop, a scan or a branch as meant."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ingot.backends.tensorrt.operators.asked import Asked, constant_of, dims_of


def scan_axes(asked: Asked) -> str | None:
    for name in ("scan_input_axes", "scan_output_axes"):
        if any(axis < 0 for axis in asked.attribute(name, ())):
            return f"{name} counts from the end; TensorRT's parser counts from the front alone"
    return None


def loops(asked: Asked) -> str | None:
    """A loop that ends early leaves TensorRT's scan outputs as long as it could have run."""
    body: ir.Graph = asked.attribute("body")
    if not asked.has(1):
        return "no condition, which TensorRT's parser does not find: give a constant true"
    condition = asked.input(1)
    if condition is not None and condition.is_graph_input():
        return "an input of the graph as its condition, which TensorRT's parser renames: give a copy (Identity)"
    carried = len(asked.node.inputs) - 2
    if len(asked.node.outputs) > carried and not _always(body, asked.constant(1)):
        return "scan outputs of a loop that may end early: TensorRT makes them as long as the trip count"
    return _tensors_only(body)


def _always(body: ir.Graph, first: Any) -> bool:
    out = body.outputs[0]
    kept = constant_of(out)
    if kept is not None:
        return bool(kept.all()) and first is not None and bool(first.all())
    node = out.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        out = node.inputs[0]
        node = out.producer()
    return out is body.inputs[1] and first is not None and bool(first.all())


def branches(asked: Asked) -> str | None:
    both: list[ir.Graph] = [asked.attribute("then_branch"), asked.attribute("else_branch")]
    for a, b in zip(both[0].outputs, both[1].outputs, strict=True):
        left, right = dims_of(a), dims_of(b)
        if left is not None and right is not None and len(left) != len(right):
            return f"branches of {len(left)} and {len(right)} dims; TensorRT takes as many in both"
    return _tensors_only(*both)


def _tensors_only(*graphs: ir.Graph) -> str | None:
    for graph in graphs:
        for value in [*graph.inputs, *graph.outputs]:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                return f"{value.name} is no tensor; TensorRT has neither sequences nor optionals"
    return None
