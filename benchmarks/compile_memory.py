"""What compiling a model of one gigabyte holds in memory, beside the files that it maps."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Bar, Benchmark, Result, Table, Unmeasured, ratio
from benchmarks.minilm import cache
from benchmarks.processes import INGOT, peak_anonymous_bytes

FREE_BYTES = 6 << 30
"""Asked for before anything is made: two gigabytes of weights, twice, and room to be wrong."""


def run() -> Result:
    available = _available_bytes()
    if available < FREE_BYTES:
        raise Unmeasured(f"{available / 1e9:.1f} GB of memory are free, {FREE_BYTES / 1e9:.1f} are needed")
    # torch, for the size and the making of the models: not in this process's own measure.
    from benchmarks import large

    folder, folder_bytes = large.folder()
    module_bytes = (large.WIDTH + 1) * large.WIDTH * large.LAYERS * 4
    models = (
        ("a module that a function builds", "benchmarks.large:module", module_bytes, large_engine()),
        ("a folder with safetensors", str(folder), folder_bytes, cache() / "folder.ingot"),
    )
    rows, factors = [], []
    for title, model, weights, path in models:
        peak = peak_anonymous_bytes([*INGOT, "compile", model, "-o", str(path), "--quiet"])
        factors.append(peak / weights)
        rows.append((title, f"{weights / 1e9:.2f}", f"{peak / 1e9:.2f}", ratio(factors[-1])))
    head = ("compile of", "weights GB", "peak GB", "factor")
    note = "RssAnon + RssShmem of the whole process tree, every 20 ms, verification included"
    return Result([Table("memory of a compile", head, rows, note)], {"compile_memory": max(factors)})


def large_engine() -> Path:
    """Where the engine of the module lies once this benchmark ran; check_time reads it."""
    return cache() / "large.ingot"


def _available_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise Unmeasured("memory is read from /proc, which this system has not") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


BENCHMARK = Benchmark("compile_memory", (Bar("compile_memory", "most", 2.0, "x"),), run)
