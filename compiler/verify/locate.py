"""Finds where an error begins: the first value of the final graph that differs from the same value in torch's trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from ingot.backends.onnxruntime.lower import lower
from ingot.ir.provenance import module_path, source_line, where
from ingot.runtime.metrics import Measure, measure
from ingot.verify.draw import Case
from ingot.verify.float64 import in_float64
from ingot.verify.reference import RAISED, to_numpy, to_torch

if TYPE_CHECKING:
    from ingot.frontend.export import Exported

Array = np.ndarray[Any, Any]

CHUNK_VALUES = 64
"""How many intermediate values are held at once, in torch and in onnxruntime."""

_UNDEFINED = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
)
"""Whose elements are whatever the memory held."""

LARGE_WEIGHT_BYTES = 2**16
"""Weights from here on are fed as inputs: a model over 2 GB cannot be serialized with them inside."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where an error begins, and whose it is.

    kind "export"   the traced program itself differs from eager; `value` is the first such output
         "rewrite"  a value of the graph differs from the trace: the translation, or a pass
         "build"    every value of the graph agrees when onnxruntime runs it plainly: lowering, or the target's kernels
    """

    kind: Literal["export", "rewrite", "build"]
    value: str = ""
    operator: str = ""
    module: str = ""
    source: str = ""
    sqnr_db: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        return self.detail


def locate(exported: Exported, model: ir.Model, case: Case, expected: Sequence[Array]) -> Located | None:
    """Runs `case` through torch's trace and through `model`, the graph after all passes, both value by value; the graph
    in ONNX Runtime with its optimisations off, in the form that the target `cpu` gives it.

    `expected` are eager's outputs. `model` stays as it is. Returns None where the graph cannot run in onnxruntime by
    itself. A value that a pass removed is passed over, so the node named is the first that still has a counterpart.
    """
    trace = _Trace(exported.program, case)
    outputs = trace.run(set(trace.outputs))
    for tensor, name, reference in zip(exported.signature.outputs, trace.outputs, expected, strict=True):
        found = measure(reference, outputs[name], tensor.dtype)
        if not found.holds:
            text = f"torch.export's own program already differs from eager in '{tensor.name}': {_words(found)}"
            return Located("export", value=tensor.name, sqnr_db=_decibels(found), detail=text)
    model = lower(model)
    pairs = _pairs(model, trace)
    for start in range(0, len(pairs), CHUNK_VALUES):
        chunk = pairs[start : start + CHUNK_VALUES]
        references = trace.run({name for _, name in chunk})
        arrays = _run_values(model, [value.name or "" for value, _ in chunk], case)
        if arrays is None:
            return None
        wrong = {
            value: (name, array)
            for (value, name), array in zip(chunk, arrays, strict=True)
            if not _held(references[name], array).holds
        }
        # What torch's own rounding explains is no fault: a value that cancels would otherwise take the blame.
        exact = trace.run_float64({name for name, _ in wrong.values()}) if wrong else {}
        for value, (name, array) in wrong.items():
            found = _held(references[name], array, exact.get(name))
            if not found.holds:
                return _blame(value, found)
    return Located(
        "build", detail="every value of the graph agrees with the trace; the built engine does not run it so"
    )


def _held(reference: Array, array: Array, exact: Array | None = None) -> Measure:
    if reference.dtype.kind in "iu" and array.dtype.kind in "iu":
        # Indices may be of another width inside the graph.
        array = array.astype(reference.dtype)
    return measure(reference, array, reference.dtype.name, exact=exact)


def _blame(value: ir.Value, found: Measure) -> Located:
    node = value.producer()
    assert node is not None
    return Located(
        "rewrite",
        value=value.name or "",
        operator=node.op_type,
        module=module_path(node),
        source=source_line(node),
        sqnr_db=_decibels(found),
        detail=f"{where(node)}: the first value that leaves the bound, {_words(found)}",
    )


def _decibels(found: Measure) -> float | None:
    return None if found.mismatch else found.worst_db


def _words(found: Measure) -> str:
    return found.mismatch or f"{found.worst_db:.1f} dB of {found.needed_db:.0f}"


class _Trace:
    """torch's program run node by node on a case; `outputs` are the names of the nodes that the user gets."""

    def __init__(self, program: torch.export.ExportedProgram, case: Case) -> None:
        self._program = program
        self._case = case
        self.outputs = [
            spec.arg.name
            for spec in program.graph_signature.output_specs
            if spec.kind == OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument)
        ]
        self.names = {
            node.name
            for node in program.graph.nodes
            if node.op == "call_function"
            and isinstance(node.meta.get("val"), torch.Tensor)
            and node.target not in _UNDEFINED
        }

    def run(self, keep: set[str]) -> dict[str, Array]:
        """The values of the nodes named in `keep`; every other value is dropped once nothing needs it."""
        keeper = _Keeper(self._program.graph_module, keep)
        with torch.no_grad():
            keeper.run(*self._arguments(), enable_io_processing=False)
        return keeper.kept

    def run_float64(self, keep: set[str]) -> dict[str, Array]:
        """The same in float64; without those after a node that cannot run so."""
        keeper = _Keeper(self._program.graph_module, keep)
        with torch.no_grad(), in_float64(), contextlib.suppress(*RAISED):
            keeper.run(*self._arguments(), enable_io_processing=False)
        return keeper.kept

    def _arguments(self) -> Iterator[Any]:
        """In the order of the placeholders. The graph is interpreted itself: `program.module()` renames its nodes."""
        program, flat = self._program, iter(self._case.inputs)
        nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
        for spec, node in zip(program.graph_signature.input_specs, nodes, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                yield to_torch(next(flat), node.meta["val"].dtype)
            else:
                assert spec.target is not None
                held = program.state_dict if spec.target in program.state_dict else program.constants
                yield held[spec.target]


class _Keeper(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, keep: set[str]) -> None:
        super().__init__(module)
        self.keep = keep
        self.kept: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.keep:
            self.kept[n.name] = to_numpy(result)
        return result


def _pairs(model: ir.Model, trace: _Trace) -> list[tuple[ir.Value, str]]:
    """(value, name in the trace) of what the graph still computes under the trace's name, in topological order.

    Outputs go by position: they have the user's names, which may be those of other nodes of the trace.
    """
    outputs = dict(zip(model.graph.outputs, trace.outputs, strict=True))
    found = []
    for node in model.graph:
        for value in node.outputs:
            name = outputs.get(value) or value.name or ""
            # onnxruntime's arrays know no bfloat16.
            if name in trace.names and value.dtype != ir.DataType.BFLOAT16:
                found.append((value, name))
    return found


def _run_values(model: ir.Model, names: Sequence[str], case: Case) -> list[Array] | None:
    """These values of the graph, as onnxruntime computes them with every optimisation off."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    clone = model.clone()
    graph = clone.graph
    values = {value.name: value for node in graph for value in node.outputs}
    feeds = {value.name or "": array for value, array in zip(graph.inputs, case.inputs, strict=True)}
    for name, weight in list(graph.initializers.items()):
        tensor = weight.const_value
        if tensor is not None and tensor.nbytes >= LARGE_WEIGHT_BYTES and tensor.dtype != ir.DataType.BFLOAT16:
            feeds[name] = tensor.numpy()
            del graph.initializers[name]
            graph.inputs.append(weight)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            ir.to_proto(clone).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(list(names), feeds))
    except (raised.Fail, raised.InvalidArgument, raised.InvalidGraph, raised.NotImplemented, raised.RuntimeException):
        return None
