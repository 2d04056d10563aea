"""MiniLM in float32: our engine against ONNX Runtime on torch's own export of the same module, and PyTorch eager."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ingot
from benchmarks import minilm
from benchmarks.harness import (
    Bar,
    Benchmark,
    Result,
    Table,
    geometric_mean,
    milliseconds,
    paired_speedup,
    ratio,
    sampler,
    take_turns,
)

THREADS = (1, 2)
ROUNDS = 9

HEAD = ("batch, length", "ours ms", "plain ms", "eager ms", "to plain", "to eager", "our dB", "plain dB")


def compare(
    engine: Path, threads: int, rounds: int, shapes: tuple[tuple[int, int], ...] = minilm.SHAPES
) -> list[dict[str, Any]]:
    """Each shape by all three in turn, at one number of threads; the caller's torch goes back to its own."""
    import torch

    model = minilm.source()
    theirs = minilm.plain_session(minilm.plain_export(model), threads)
    needed = [value.name for value in theirs.get_inputs()]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ingot.load(engine, threads=threads) as ours, torch.inference_mode():
            found = []
            for batch, length in shapes:
                inputs = minilm.draw(batch, length, seed=batch * 1000 + length)
                feeds = {name: inputs[name] for name in needed}
                tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
                runs: dict[str, Callable[[], Any]] = {
                    "ours": lambda inputs=inputs: ours(**inputs)["sentence_embedding"],  # type: ignore[misc]
                    "plain": lambda feeds=feeds: theirs.run(None, feeds)[0],  # type: ignore[misc]
                    "eager": lambda tensors=tensors: _embedding(model.module(**tensors)),  # type: ignore[misc]
                }
                found.append({"batch": batch, "length": length, "threads": threads, **_measure(runs, rounds)})
            return found
    finally:
        torch.set_num_threads(before)


def _embedding(result: Any) -> Any:
    return result["sentence_embedding"].numpy()


def _measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    from ingot.runtime.metrics import measure

    expected = runs["eager"]()
    accuracy = {name: measure(expected, runs[name](), "float32").worst_db for name in ("ours", "plain")}
    times = take_turns(rounds, **{name: sampler(run) for name, run in runs.items()})
    return {
        "seconds": times,
        "worst_db": accuracy,
        "to_plain": paired_speedup(times["ours"], times["plain"]),
        "to_eager": paired_speedup(times["ours"], times["eager"]),
    }


def table(found: list[dict[str, Any]]) -> Table:
    threads = found[0]["threads"]
    rows = [
        (
            f"{item['batch']}, {item['length']}",
            *(milliseconds(item["seconds"][name]) for name in ("ours", "plain", "eager")),
            ratio(item["to_plain"]),
            ratio(item["to_eager"]),
            *(f"{item['worst_db'][name]:.0f}" for name in ("ours", "plain")),
        )
        for item in found
    ]
    note = "median (least) of each; speed-ups are paired medians; dB is the worst row's SQNR against eager"
    return Table(f"MiniLM float32, {threads} thread{'s' * (threads > 1)} each, in turn", HEAD, rows, note)


def run() -> Result:
    engine = minilm.engine()
    found = [item for threads in THREADS for item in compare(engine, threads, ROUNDS)]
    speedups = [item["to_plain"] for item in found]
    worst = min(item["worst_db"]["ours"] for item in found)
    return Result(
        [table([item for item in found if item["threads"] == threads]) for threads in THREADS],
        {
            "minilm_slowest": min(speedups),
            "minilm_mean": geometric_mean(speedups),
            "minilm_accuracy": worst,
        },
        {"runs": found, "median_speedup": statistics.median(speedups)},
    )


BENCHMARK = Benchmark(
    "minilm_speed",
    (
        Bar("minilm_slowest", "least", 1.0, "x", equal=True),
        Bar("minilm_mean", "least", 1.15, "x"),
        Bar("minilm_accuracy", "least", 100.0, "dB"),
    ),
    run,
)
