"""Where ONNX Runtime puts each node when it has the CUDA provider and the CPU provider, told before it runs.

The rule is the provider's own. A node goes to the GPU when there is a kernel for it, but for the arithmetic on shapes:
`Shape` gives its result in the processor's memory, and what reads only such results, small constants and inputs of the
graph stays there too, so that no tensor travels to the GPU to be read back as a size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.backends.contract import No, Yes
from ingot.backends.cuda.kernels import kernel_for
from ingot.ir.checks import subgraphs

SMALL_ELEMENTS = 100
"""A constant of up to so many elements may be read on either side."""

HOST_OUTPUTS = frozenset({"SequenceLength", "Shape", "Size"})
"""Operators whose CUDA kernel gives its result in the processor's memory."""

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

HOST_INPUTS: Mapping[str, frozenset[int]] = {
    "ConstantOfShape": frozenset({0}),
    "CumSum": frozenset({1}),
    "Expand": frozenset({1}),
    "If": frozenset({0}),
    "Loop": frozenset({0, 1}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "SequenceAt": frozenset({1}),
    "SequenceErase": frozenset({1}),
    "SequenceInsert": frozenset({2}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    **{f"Reduce{what}": frozenset({1}) for what in _REDUCTIONS},
}
"""The inputs that a CUDA kernel reads in the processor's memory: a node with a size there stays on the GPU."""

_NEVER_HOST = frozenset(
    {
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)


@dataclass(slots=True)
class Placement:
    """Of the nodes of a graph and of the bodies inside it: on the GPU, on the processor by the rule, or nowhere."""

    gpu: list[ir.Node] = field(default_factory=list)
    processor: list[ir.Node] = field(default_factory=list)
    nowhere: list[tuple[ir.Node, No]] = field(default_factory=list)

    def on_processor(self) -> dict[str, int]:
        """How many nodes of each operator stay on the processor."""
        return dict(sorted(Counter(node.op_type for node in self.processor).items()))


def place(model: ir.Model) -> Placement:
    """Linear in the nodes."""
    found = Placement()
    _place(model.graph, model.opset_imports.get("", 1), found)
    return found


def _place(graph: ir.Graph, version: int, found: Placement) -> None:
    host: set[ir.Value] = set()
    inputs = set(graph.inputs)
    for node in graph:
        for inner in subgraphs(node):
            _place(inner, version, found)
        answer = kernel_for(node, node.version or version)
        follows = any(value in host for value in node.inputs)
        if isinstance(answer, Yes) and not (follows and _is_arithmetic_on_shapes(node, host, inputs)):
            found.gpu.append(node)
            host.update(node.outputs if node.op_type in HOST_OUTPUTS else ())
        elif isinstance(answer, Yes) or (follows and all(_is_readable(value, host, inputs) for value in node.inputs)):
            found.processor.append(node)
            host.update(node.outputs)
        else:
            assert isinstance(answer, No)
            found.nowhere.append((node, answer))


def _is_arithmetic_on_shapes(node: ir.Node, host: set[ir.Value], inputs: set[ir.Value]) -> bool:
    """Whether the provider leaves a node that it has a kernel for to the processor."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in _NEVER_HOST:
            return False
        if not _is_readable(value, host, inputs):
            return False
        if value in host and index in HOST_INPUTS.get(node.op_type, ()):
            return False
    return True


def _is_readable(value: ir.Value | None, host: set[ir.Value], inputs: set[ir.Value]) -> bool:
    """On the processor, without a copy from the GPU."""
    if value is None:
        return False
    if value.is_initializer():
        return value.const_value is not None and value.const_value.size <= SMALL_ELEMENTS
    return value in host or value in inputs
