"""Every benchmark, in the order of `make bench`: the quick ones first."""

from __future__ import annotations

from benchmarks import (
    call_overhead,
    check_time,
    compile_memory,
    compile_time,
    determinism,
    embedder,
    load_time,
    minilm_speed,
    onnx_cases,
    rtx_build,
    rtx_engines,
    size,
)
from benchmarks.harness import Benchmark

BENCHMARKS: tuple[Benchmark, ...] = (
    size.BENCHMARK,
    call_overhead.BENCHMARK,
    load_time.BENCHMARK,
    check_time.BENCHMARK,
    minilm_speed.BENCHMARK,
    embedder.BENCHMARK,
    compile_time.BENCHMARK,
    compile_memory.BENCHMARK,
    determinism.BENCHMARK,
    rtx_build.BENCHMARK,
    onnx_cases.BENCHMARK,
    rtx_engines.BENCHMARK,
)
