"""What a call of an engine costs over a bare run of ONNX Runtime on the very same graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingot
from benchmarks.harness import ABSOLUTE_ROUNDS, Bar, Benchmark, Result, Table, sampler, take_turns

if TYPE_CHECKING:
    from ingot.runtime.engine import Engine

SAMPLE_SECONDS = 0.004
"""Short enough to lie between two turns of whatever else runs here: the best of ten is then really undisturbed."""


def run() -> Result:
    import numpy as np

    from ingot.models import tiny
    from ingot.models.handmade import ENCODER_WORDS, write_encoder

    example = tiny.build()
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ENCODER_WORDS, (2, 8), dtype=np.int64)
    with tempfile.TemporaryDirectory() as home:
        path = write_encoder(Path(home) / "tiny.ingot", seed=0)
        with ingot.compile(example.module, example.args, dynamic_shapes=example.dynamic_shapes, threads=1) as engine:
            floats = _measure(engine, {"x": example.args[0].numpy()}, _bare_session(engine))
        with ingot.load(path, threads=1) as engine:
            integers = _measure(engine, {"ids": ids, "mask": np.ones_like(ids)}, _bare_encoder(seed=0))
    rows = [
        ("one float input", *(f"{value:.2f}" for value in floats)),
        ("ids and mask, each value held to its domain", *(f"{value:.2f}" for value in integers)),
    ]
    head = ("model", "engine(x=…) µs", "InferenceSession.run µs", "overhead µs")
    note = "least of ten, one graph, one thread, in turn"
    values = {"call_overhead": floats[2], "call_overhead_domains": integers[2]}
    return Result([Table("a call of a tiny model", head, rows, note)], values)


def _measure(engine: Engine, feeds: Mapping[str, Any], bare: Any) -> tuple[float, float, float]:
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: engine(**feeds), "bare": lambda: bare.run(None, feeds)}
    samplers = {name: sampler(call, sample_seconds=SAMPLE_SECONDS) for name, call in runs.items()}
    best = {name: min(seconds) * 1e6 for name, seconds in take_turns(ABSOLUTE_ROUNDS, **samplers).items()}
    return best["ours"], best["bare"], best["ours"] - best["bare"]


def _bare_session(engine: Engine) -> Any:
    """The engine's own graph in a session of its own; its weights are so small that they lie inside."""
    return _session(engine.member(engine.header.targets[0].members["graph"]))


def _bare_encoder(seed: int) -> Any:
    """The same ONNX text as the engine's, its weights inside."""
    import onnx.parser

    from ingot.models.handmade import ENCODER, encoder_table

    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {ENCODER}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(encoder_table(seed), "table"))
    return _session(proto.SerializeToString())


def _session(graph: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # The level that the engine is loaded with: the graphs stay the same.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


BENCHMARK = Benchmark(
    "call_overhead",
    (Bar("call_overhead", "most", 10.0, "µs"), Bar("call_overhead_domains", "most", 10.0, "µs")),
    run,
)
