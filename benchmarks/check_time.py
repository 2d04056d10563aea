"""How long it takes to learn whether a machine can run a file, small and large."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import minilm
from benchmarks.compile_memory import large_engine
from benchmarks.harness import ABSOLUTE_ROUNDS, Bar, Benchmark, Result, Table
from benchmarks.processes import INGOT, run_python, seconds

CHECK = """
import json, sys, time
import ingot
check = ingot.check
began = time.perf_counter()
report = check(sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - began, "runs": report.runs}))
"""
"""The first check of a process: nothing is known yet of file or machine."""


def run() -> Result:
    files = {"minilm": minilm.engine(), "large": _large(), "three": _three()}
    rows: list[tuple[str, ...]] = []
    values: dict[str, float] = {}
    for name, path in files.items():
        times = [run_python(CHECK, str(path))["seconds"] * 1e3 for _ in range(ABSOLUTE_ROUNDS)]
        commands = [seconds([*INGOT, "check", str(path)]) * 1e3 for _ in range(ABSOLUTE_ROUNDS)]
        values |= {f"check_{name}": min(times), f"check_command_{name}": min(commands)}
        size = f"{path.stat().st_size / 1e9:.2f}"
        rows.append((name, size, *(f"{f(x):.1f}" for x in (times, commands) for f in (min, statistics.median))))
    head = ("file", "GB", "check best ms", "median", "command best ms", "median")
    note = "the first check of a fresh process after `import ingot`; the command is the whole process"
    return Result([Table("can this machine run it", head, rows, note)], values)


def _large() -> Path:
    """An engine with a gigabyte of weights, not verified: only its size counts here."""
    path = large_engine()
    if not minilm.is_current(path, Path(__file__).parent):
        from benchmarks.processes import run as run_command

        run_command([*INGOT, "compile", "benchmarks.large:module", "-o", str(path), "--quiet", "--verify", "off"])
    return path


def _three() -> Path:
    """An engine for a processor and two kinds of GPU."""
    path = minilm.cache() / "three.ingot"
    if not minilm.is_current(path, Path(__file__).parent):
        from benchmarks.processes import run as run_command

        targets = ["--target", "cpu,cuda,tensorrt-rtx", "--arch", "sm_89,sm_120"]
        run_command([*INGOT, "compile", "ingot.models.minilm:build", *targets, "-o", str(path), "--quiet"])
    return path


BENCHMARK = Benchmark(
    "check_time",
    (
        Bar("check_minilm", "most", 10.0, "ms"),
        Bar("check_large", "most", 10.0, "ms"),
        Bar("check_three", "most", 10.0, "ms"),
        Bar("check_command_minilm", "most", 200.0, "ms"),
        Bar("check_command_large", "most", 200.0, "ms"),
    ),
    run,
)
