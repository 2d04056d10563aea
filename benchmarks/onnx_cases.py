"""Each of onnx's node tests that TensorRT-RTX's parser claims: refused by us first, or parsed, built and right.

`python -m benchmarks onnx_cases` runs all. A child takes the graphs one by one, so that an abort is one case's fault.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from benchmarks.harness import Bar, Benchmark, Result, Table
from ingot.backends.tensorrt.lowering.lower import for_parser, lower
from ingot.backends.tensorrt.operators import table as operators
from ingot.backends.tensorrt.operators.asked import dtype_of
from ingot.passes.contract import run_passes
from ingot.passes.infer_shapes import InferShapes
from ingot.runtime.metrics import measure

FLAVOUR = "tensorrt-rtx"
CHILD_SECONDS = 900
ABORTED = "ends the process that parses or builds it"


@dataclass(frozen=True, slots=True)
class Case:
    """A node test. Where an input is not a tensor, `arrays` has None for it."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    rtol: float
    atol: float


@cache
def cases() -> dict[str, Case]:
    """Every node test of the installed onnx whose operators the parser claims, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # numpy tells of the infinities that the tests are made of.
        warnings.simplefilter("ignore")
        loaded: list[Any] = load_model_tests(kind="node")
    claimed = set(_claimed({node.op_type for case in loaded for node in case.model.graph.node}))
    found = {}
    for case in loaded:
        if all(node.op_type in claimed for node in case.model.graph.node):
            inputs, outputs = case.data_sets[0]
            given, expected = ([_array(each) for each in side] for side in (inputs, outputs))
            found[case.name] = Case(case.name, case.model, given, expected, case.rtol, case.atol)
    return found


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None


def _claimed(names: set[str]) -> list[str]:
    code = (
        "import sys, tensorrt_rtx as trt\n"
        "log = trt.Logger(trt.Logger.ERROR)\n"
        "parser = trt.OnnxParser(trt.Builder(log).create_network(0), log)\n"
        "print(*[name for name in sys.argv[1:] if parser.supports_operator(name)])"
    )
    done = subprocess.run([sys.executable, "-c", code, *sorted(names)], capture_output=True, text=True, check=True)
    return done.stdout.split()


def prepared(case: Case) -> tuple[ir.Model, list[str]]:
    """The lowered graph, and why it is refused; no reason where it goes to the parser."""
    model = ir.from_proto(case.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_passes(model, [InferShapes()])
    lowered = lower(model)
    reasons = [answer.reason for _, answer in operators.unsupported(lowered, FLAVOUR)]
    return lowered, [*reasons, *operators.refusals(lowered)]


def verdicts(names: Sequence[str]) -> dict[str, str]:
    """What became of each case: "refused: why", "right", or what is wrong."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        accepted = []
        for name in names:
            lowered, reasons = prepared(cases()[name])
            if reasons:
                found[name] = f"refused: {reasons[0]}"
            else:
                accepted.append(name)
                _write(Path(folder), cases()[name], lowered)
        while accepted:
            done = dict(_children(Path(folder), accepted))
            found |= done
            accepted = [name for name in accepted if name not in done]
    return found


def _write(folder: Path, case: Case, lowered: ir.Model) -> None:
    home = folder / case.name
    home.mkdir()
    onnx.save(ir.to_proto(for_parser(lowered)), home / "graph.onnx")
    declared = {
        "inputs": [_declared(value) for value in lowered.graph.inputs],
        "outputs": [_declared(value) for value in lowered.graph.outputs],
        "unread": operators.unread_inputs(lowered),
    }
    about = {"declared": declared, "rtol": case.rtol, "atol": case.atol}
    (home / "about.json").write_text(json.dumps(about), encoding="utf-8")
    graph = lowered.graph
    for side, values, arrays in (("input", graph.inputs, case.inputs), ("output", graph.outputs, case.outputs)):
        for index, (value, array) in enumerate(zip(values, arrays, strict=False)):
            if array is not None:
                proto = numpy_helper.from_array(array, value.name)
                (home / f"{side}_{index}.pb").write_bytes(proto.SerializeToString())


def _declared(value: ir.Value) -> list[Any]:
    dims = [] if value.shape is None else [size if isinstance(size, int) else str(size) for size in value.shape.dims]
    return [value.name, dtype_of(value), dims]


def _children(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """One child for all, up to where it ends: what it said of each, and of the case that ended it."""
    command = [sys.executable, "-m", "benchmarks.onnx_cases", str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, env=dict(os.environ))
    started = None
    for line in done.stdout.splitlines():
        if line.startswith("start "):
            started = line.split()[1]
        elif line.startswith("done ") and started is not None:
            yield started, line.removeprefix("done ")
            started = None
    if done.returncode != 0 or started is not None:
        yield started or names[0], f"{ABORTED}: exit status {done.returncode}: {done.stderr[-300:]}"


def child(folder: Path, names: Sequence[str]) -> None:
    trt: Any = importlib.import_module("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    for name in names:
        print("start", name, flush=True)
        print("done", _judged(trt, logger, builder, folder / name).replace("\n", " "), flush=True)


def _judged(trt: Any, logger: Any, builder: Any, home: Path) -> str:
    from ingot.backends.tensorrt.child.audit import audit
    from ingot.backends.tensorrt.network.evaluate import EvaluationError, NotEvaluatedError, evaluate

    about = json.loads((home / "about.json").read_text(encoding="utf-8"))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse((home / "graph.onnx").read_bytes()):
        return f"rejected by the parser: {parser.get_error(0).desc()}"
    given, expected = (dict(_arrays(home, side)) for side in ("input", "output"))
    problems = audit(network, about["declared"])
    try:
        got = evaluate(network, given)
    except (EvaluationError, NotEvaluatedError) as error:
        return f"not evaluated: {error}"
    for name, array in expected.items():
        if name in got and not _equal(array, got[name], about["rtol"], about["atol"]):
            problems.append(f"{name} differs: {got[name].ravel()[:4]} where onnx has {array.ravel()[:4]}")
    if not problems and not _builds(trt, builder, network, given):
        problems.append("does not build")
    return "; ".join(problems) or "right"


def _arrays(home: Path, side: str) -> Iterator[tuple[str, Any]]:
    for path in sorted(home.glob(f"{side}_*.pb")):
        proto = onnx.TensorProto.FromString(path.read_bytes())
        yield proto.name, numpy_helper.to_array(proto)


def _equal(expected: Any, got: Any, rtol: float, atol: float) -> bool:
    dtype = expected.dtype.name
    if expected.shape != got.shape:
        return False
    if dtype == "bfloat16":
        expected = expected.view(np.uint16)
    if expected.dtype != got.dtype:
        return False
    if measure(expected, got, dtype).holds:
        return True
    close = {"float32": 1.0, "float16": 1.0}.get(dtype)
    return close is not None and bool(np.allclose(got, expected, rtol=rtol, atol=atol, equal_nan=True))


def _builds(trt: Any, builder: Any, network: Any, given: dict[str, Any]) -> bool:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        array = given[tensor.name]
        if tensor.is_shape_tensor:
            sizes = [int(size) for size in array.ravel()]
            profile.set_shape_input(tensor.name, sizes, sizes, sizes)
        elif any(size < 0 for size in tensor.shape):
            profile.set_shape(tensor.name, array.shape, array.shape, array.shape)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def summary(found: dict[str, str]) -> tuple[Counter[str], dict[str, str]]:
    """How many were refused and how many are right; and what is neither."""
    kinds = Counter(text.partition(":")[0] for text in found.values() if text.startswith(("refused", "right")))
    return kinds, {name: text for name, text in found.items() if not text.startswith(("refused", "right"))}


def run() -> Result:
    found = verdicts(list(cases()))
    kinds, wrong = summary(found)
    rows = [("claimed by the parser", str(len(found))), *((kind, str(count)) for kind, count in kinds.items())]
    rows += [(name, text[:200]) for name, text in wrong.items()]
    aborts = sum(ABORTED in text for text in wrong.values())
    values = {"onnx_cases": float(len(wrong)), "onnx_cases_aborts": float(aborts if found else math.nan)}
    note = (
        f"onnx {onnx.__version__}: refused by us first, or parsed, audited, built for sm_89 and evaluated as onnx says"
    )
    return Result([Table("onnx's node tests", ("", "cases"), rows, note)], values, {"verdicts": found})


BENCHMARK = Benchmark("onnx_cases", (Bar("onnx_cases", "most", 0), Bar("onnx_cases_aborts", "most", 0)), run)

if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2:])
