"""What a call of an engine costs over a bare run of ONNX Runtime on the very same graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
from benchmarks.harness import ABSOLUTE_ROUNDS, Bar, Benchmark, Result, Table, sampler, take_turns

SAMPLE_SECONDS = 0.004
"""Short enough to lie between two turns of whatever else runs here: the best of ten is then really undisturbed."""


def run() -> Result:
    import numpy as np

    from ingot.models.handmade import ENCODER_WORDS, write_encoder

    rng = np.random.default_rng(0)
    feeds = {
        "ids": rng.integers(0, ENCODER_WORDS, (2, 8), dtype=np.int64),
        "mask": np.ones((2, 8), np.int64),
    }
    with tempfile.TemporaryDirectory() as home:
        path = write_encoder(Path(home) / "tiny.ingot", seed=0)
        bare = _bare_session(seed=0)
        with ingot.load(path, threads=1) as engine:
            runs: dict[str, Callable[[], Any]] = {
                "ours": lambda: engine(**feeds),
                "bare": lambda: bare.run(None, feeds),
            }
            assert np.array_equal(runs["ours"]()["embedding"], runs["bare"]()[0])
            samplers = {name: sampler(call, sample_seconds=SAMPLE_SECONDS) for name, call in runs.items()}
            times = take_turns(ABSOLUTE_ROUNDS, **samplers)
    best = {name: min(seconds) * 1e6 for name, seconds in times.items()}
    overhead = best["ours"] - best["bare"]
    rows = [
        ("engine(ids=…, mask=…)", f"{best['ours']:.2f}"),
        ("InferenceSession.run", f"{best['bare']:.2f}"),
        ("overhead", f"{overhead:.2f}"),
    ]
    note = "one graph, one thread, in turn; every id is held to its domain"
    return Result(
        [Table("a tiny model with two integer inputs", ("call", "best µs"), rows, note)],
        {"call_overhead": overhead},
        {"seconds": times},
    )


def _bare_session(seed: int) -> Any:
    """The same ONNX text as the engine's, its weights inside."""
    import onnx.parser
    import onnxruntime

    from ingot.models.handmade import ENCODER, encoder_table

    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {ENCODER}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(encoder_table(seed), "table"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # The level that the engine is loaded with: the graphs stay the same.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


BENCHMARK = Benchmark("call_overhead", (Bar("call_overhead", "most", 10.0, "µs"),), run)
