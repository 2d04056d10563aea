"""A TensorRT-RTX plan of a GPT-2 of 124 million parameters in float16: our build of our graph, polygraphy's of torch's.

Ours is a process that loads the graph as the pipeline leaves it and calls the builder: lowering, the checks before it,
writing graph and weights, and the child that parses, audits, builds and writes the plan. Theirs is `polygraphy convert`
of torch.onnx.export's file. Both build for the same two architectures and profile. Time is taken once each process has
imported what it needs, as a compile has long before; memory is of whole processes. Tracing, torch's export, and our
passes before the backends are not in it; nor are verification and the engine file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Bar, Benchmark, Result, Table, Unmeasured, ratio, take_turns
from benchmarks.minilm import cache
from benchmarks.processes import peak_anonymous_bytes, run_python
from benchmarks.processes import run as run_process
from ingot.installed import installed_version

if TYPE_CHECKING:
    from ingot.models.example import Example

ARCHS = ("sm_89", "sm_120")
CAPABILITIES = ("8.9", "12.0")
MIN, OPT, MAX = (1, 1), (1, 32), (8, 64)
"""Batch and sequence that both build for."""

ROUNDS = 3

PREPARE = """
import sys
from pathlib import Path
from benchmarks.rtx_build import prepare
prepare(Path(sys.argv[1]))
print("{}")
"""

OURS = """
import json, sys, tempfile, time
from pathlib import Path
import onnx_ir as ir
from ingot.backends.contract import BuildOptions
from ingot.backends.tensorrt_rtx.build import BUILDER
from ingot.signature import Signature
home, archs = Path(sys.argv[1]), tuple(sys.argv[2].split(","))
signature = Signature.from_json(json.loads((home / "signature.json").read_text()))
began = time.perf_counter()
with tempfile.TemporaryDirectory(dir=home) as scratch:
    sizes = {dim.name: 1 if dim.name == "batch" else 32 for dim in signature.dims}
    options = BuildOptions(threads=1, folder=Path(scratch), signature=signature, sizes=sizes, archs=archs)
    built = BUILDER.build(ir.load(home / "ours.onnx"), options)
    print(json.dumps({"seconds": time.perf_counter() - began, **built.notes["seconds"]}))
"""

THEIRS = """
import json, sys, time
import numpy, onnx, tensorrt_rtx
import polygraphy.tools
from polygraphy.tools._main import main
began = time.perf_counter()
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def run() -> Result:
    for distribution in ("tensorrt-rtx", "polygraphy"):
        if installed_version(distribution) is None:
            raise Unmeasured(f"{distribution} is not installed")
    home = cache() / f"rtx-build-{installed_version('torch')}"
    if not (home / "ready").exists():
        home.mkdir(exist_ok=True)
        run_python(PREPARE, str(home))
    ours = [sys.executable, "-c", OURS, str(home), ",".join(ARCHS)]
    theirs = _polygraphy(home)
    env = {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}
    whole: dict[str, list[float]] = {"ours": [], "polygraphy": []}
    took = take_turns(
        ROUNDS,
        ours=lambda: _said(ours, env, whole["ours"]),
        polygraphy=lambda: _said(theirs, env, whole["polygraphy"]),
    )
    peaks = {
        "ours": peak_anonymous_bytes(["env", *_pairs(env), *ours]),
        "polygraphy": peak_anonymous_bytes(["env", *_pairs(env), *theirs]),
    }
    time_ratio, whole_ratio = (
        statistics.median(our / their for our, their in zip(each["ours"], each["polygraphy"], strict=True))
        for each in (took, whole)
    )
    memory_ratio = peaks["ours"] / peaks["polygraphy"]
    rows = [
        (
            name,
            f"{statistics.median(took[name]):.2f} ({min(took[name]):.2f})",
            f"{statistics.median(whole[name]):.2f}",
            f"{peaks[name] / 1e9:.2f}",
        )
        for name in took
    ]
    note = f"{ROUNDS} rounds in turn, from after the imports; RssAnon + RssShmem of the process tree every 20 ms"
    head = ("GPT-2, 124 M parameters, float16", "seconds (least)", "with imports", "peak GB")
    table = Table(f"TensorRT-RTX plan for {', '.join(ARCHS)}", head, rows, note)
    rows_of_ratios = [
        ("time", ratio(time_ratio)),
        ("time of the whole processes, imports and all", ratio(whole_ratio)),
        ("memory", ratio(memory_ratio)),
    ]
    ratios = Table("ours / polygraphy", ("", "ratio"), rows_of_ratios)
    bars = {"rtx_build_time": time_ratio, "rtx_build_memory": memory_ratio}
    return Result([table, ratios], bars, {"seconds": took, "whole_seconds": whole})


def prepare(home: Path) -> None:
    """Writes the plain export, and the same model as our pipeline leaves it for the backends, with its signature."""
    import torch

    from ingot.frontend.export import export
    from ingot.frontend.source import Source
    from ingot.passes.contract import run_passes
    from ingot.pipeline import passes

    example = _example()
    source = Source("gpt2", example.module, example.args, dict(example.kwargs), dynamic_shapes=example.dynamic_shapes)
    found = export(source)
    run_passes(found.model, passes())
    import onnx_ir as ir

    ir.save(found.model, home / "ours.onnx", external_data="ours.bin")
    (home / "signature.json").write_text(json.dumps(found.signature.to_json()))
    program = torch.onnx.export(
        example.module.eval(),
        example.args,
        kwargs=dict(example.kwargs),
        dynamic_shapes=example.dynamic_shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(home / "plain.onnx", external_data=True)
    shapes = {
        value.name: [size if isinstance(size, int) else None for size in value.shape or ()]
        for value in program.model.graph.inputs
    }
    (home / "inputs.json").write_text(json.dumps(shapes))
    (home / "ready").touch()


def _example() -> Example:
    import torch

    from ingot.models.architectures import gpt2

    example = gpt2(0, hidden=768, layers=12, heads=12, vocabulary=50257)
    example.module.to(torch.float16)
    return example


def _polygraphy(home: Path) -> list[str]:
    command = [
        sys.executable,
        "-c",
        THEIRS,
        "convert",
        str(home / "plain.onnx"),
        "--convert-to",
        "trt",
    ]
    command += ["-o", str(home / "plain.plan"), "--strongly-typed", "--compute-capabilities", *CAPABILITIES]
    inputs = json.loads((home / "inputs.json").read_text())
    for option, sizes in (("min", MIN), ("opt", OPT), ("max", MAX)):
        command += [f"--trt-{option}-shapes", *(f"{name}:[{','.join(map(str, sizes))}]" for name in inputs)]
    return command


def _said(command: Sequence[str], env: Mapping[str, str], whole: list[float]) -> float:
    """The seconds that a process says it took, in a line of JSON among others; those of all of it go to `whole`."""
    began = time.perf_counter()
    said = [line for line in run_process(command, env=env).splitlines() if line.startswith('{"seconds"')]
    whole.append(time.perf_counter() - began)
    if not said:
        raise Unmeasured("a process ended without saying how long it took")
    return float(json.loads(said[-1])["seconds"])


def _pairs(env: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in env.items()]


BENCHMARK = Benchmark(
    "rtx_build", (Bar("rtx_build_time", "most", 1.2, "x"), Bar("rtx_build_memory", "most", 1.1, "x")), run
)
