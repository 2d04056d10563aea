"""The models of ONNX's own backend tests, a fresh sample each run, compute the same after all passes."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node
import onnx.backend.test.loader
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import run_passes
from ingot.pipeline import passes

MODULES = 24
FOLDERS = 30
AT_LEAST = 40

REFUSED = (raised.Fail, raised.InvalidArgument, raised.InvalidGraph, raised.NotImplemented, raised.RuntimeException)
# What its Python binding raises for inputs that it has no conversion for.
UNREADABLE = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Standard:
    """A model of the standard and one call of it."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]


def of_operators(generator: np.random.Generator) -> Iterator[Standard]:
    """Importing a module makes its models: of one operator, and of the functions that define it by others."""
    package = onnx.backend.test.case.node
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    # Attention's definitions are by far the largest graphs.
    chosen = {"attention", *generator.choice(names, MODULES, replace=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(chosen):
            importlib.import_module(f"{package.__name__}.{name}")
    cases = list(package._NodeTestCases)
    for index in generator.permutation(len(cases))[:200]:
        if cases[index].data_sets:
            yield Standard(cases[index].name, cases[index].model, cases[index].data_sets[0][0])


def of_folders(generator: np.random.Generator) -> Iterator[Standard]:
    """Models that PyTorch wrote in earlier days, and small graphs with bodies and sequences."""
    root = Path(onnx.backend.test.loader.DATA_DIR)
    folders = sorted(path.parent for kind in root.iterdir() for path in kind.glob("*/model.onnx"))
    for index in generator.permutation(len(folders))[:FOLDERS]:
        given = sorted(folders[index].glob("test_data_set_0/input_*.pb"), key=lambda path: int(path.stem[6:]))
        tensors = [onnx.TensorProto.FromString(path.read_bytes()) for path in given]
        if all(tensor.data_type for tensor in tensors):
            model = onnx.load(folders[index] / "model.onnx")
            yield Standard(folders[index].name, model, [onnx.numpy_helper.to_array(tensor) for tensor in tensors])


def run(model: ir.Model, inputs: Sequence[Any]) -> list[Any] | None:
    """None where ONNX Runtime refuses the model or these inputs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        names = [value.name for value in session.get_inputs()]
        return list(session.run(None, dict(zip(names, inputs, strict=False))))
    except (*REFUSED, *UNREADABLE):
        return None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(np.array_equal(a, b))


def read(standard: Standard, *, fixed: bool) -> ir.Model | None:
    """The model; with its inputs made initializers where `fixed`, so that all of it is constant."""
    model = ir.from_proto(standard.model)
    # Newer ones are for a newer ONNX Runtime.
    model.ir_version = min(model.ir_version, 13)
    if fixed:
        arrays = dict(zip(list(model.graph.inputs), standard.inputs, strict=False))
        if not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in arrays.values()):
            return None
        for value, array in arrays.items():
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(array)
            model.graph.initializers.add(value)
    return model


def computes_float16(model: ir.Model) -> bool:
    """ONNX Runtime rounds to float16 where a Cast says so, unless it sees that it can compute on in float32."""
    values = [*model.graph.inputs, *(value for node in all_nodes(model) for value in node.outputs)]
    casts = [node.attributes.get_int("to", 0) for node in all_nodes(model) if node.op_type == "Cast"]
    return ir.DataType.FLOAT16 in {value.dtype for value in values} or ir.DataType.FLOAT16 in casts


@pytest.mark.parametrize("fixed", [False, True], ids=["inputs", "constants"])
@pytest.mark.parametrize("source", [of_operators, of_folders])
def test_same_numbers(source, fixed, seed):
    compared = rewritten = 0
    for standard in source(np.random.default_rng(seed)):
        before, after = read(standard, fixed=fixed), read(standard, fixed=fixed)
        inputs = [] if fixed else standard.inputs
        expected = None if before is None or computes_float16(before) else run(before, inputs)
        # Twice, for some draw numbers.
        if before is None or after is None or expected is None or not same(expected, run(before, inputs)):
            continue
        shown = [(value.name, value.type) for value in [*after.graph.inputs, *after.graph.outputs]]
        reports = run_passes(after, passes())
        assert [(value.name, value.type) for value in [*after.graph.inputs, *after.graph.outputs]] == shown
        assert same(expected, run(after, inputs)), standard.name
        compared += 1
        rewritten += any(report.rewrites for report in reports)
    assert compared >= (AT_LEAST if source is of_operators else FOLDERS // 3)
    assert rewritten > 0
