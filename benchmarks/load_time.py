"""Loading an engine in a fresh process, beyond importing what it stands on."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import minilm
from benchmarks.harness import ABSOLUTE_ROUNDS, Bar, Benchmark, Result, Table
from benchmarks.processes import run_python

LOAD = """
import json, sys, time
import numpy, onnxruntime
started = []
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"):
        started.append(event)
sys.addaudithook(watch)
began = time.perf_counter()
import ingot
engine = ingot.load(sys.argv[1])
loaded = time.perf_counter()
engine(**{name: numpy.ones((1, 16), "int64") for name in (tensor.name for tensor in engine.inputs)})
ran = time.perf_counter()
compiler = ("torch", "onnx", "onnx_ir", "onnxscript", "click", "transformers", "ingot.frontend", "ingot.passes",
            "ingot.pipeline", "ingot.ir", "ingot.verify")
print(json.dumps({
    "load": loaded - began, "run": ran - loaded, "started": started,
    "imported": [name for name in compiler if name in sys.modules],
}))
"""


def run() -> Result:
    path = str(minilm.engine())
    found: list[Any] = [run_python(LOAD, path) for _ in range(ABSOLUTE_ROUNDS)]
    loads = [item["load"] * 1e3 for item in found]
    runs = [item["run"] * 1e3 for item in found]
    children = max(len(item["started"]) for item in found)
    imported = sorted({name for item in found for name in item["imported"]})
    rows = [
        ("import ingot, load", f"{min(loads):.1f}", f"{statistics.median(loads):.1f}"),
        ("first run, [1, 16]", f"{min(runs):.1f}", f"{statistics.median(runs):.1f}"),
    ]
    head = ("beyond numpy and onnxruntime", "best ms", "median")
    note = f"child processes: {children}; of the compiler's modules imported: {', '.join(imported) or 'none'}"
    return Result(
        [Table(f"MiniLM, {len(found)} fresh processes", head, rows, note)],
        {"load_time": min(loads), "load_children": children, "load_imports": len(imported)},
        {"processes": found},
    )


BENCHMARK = Benchmark(
    "load_time",
    (
        Bar("load_time", "most", 80.0, "ms"),
        Bar("load_children", "most", 0.0),
        Bar("load_imports", "most", 0.0),
    ),
    run,
)
