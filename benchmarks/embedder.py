"""From raw text: ingot.Embedder against sentence-transformers' own pipeline on the same texts."""

from __future__ import annotations

import ast
import random
import sysconfig
from functools import cache
from pathlib import Path

import ingot
from benchmarks import minilm
from benchmarks.harness import Bar, Benchmark, Result, Table, milliseconds, paired_speedup, ratio, take_turns, timed

TEXTS = 200
ROUNDS = 5
SEED = 20

SHORTEST, LONGEST = 10, 2000
"""Characters; the longest are cut by the model, which takes 256 tokens."""


def draw_texts(count: int = TEXTS, seed: int = SEED) -> list[str]:
    """Docstrings of Python's standard library, from a few words to whole pages, in a drawn order."""
    by_length = sorted(_docstrings(), key=lambda text: (len(text), text))
    # Equal steps of the logarithm of length, or the many one-liners would be all there is.
    lengths = [SHORTEST * (LONGEST / SHORTEST) ** (step / (count - 1)) for step in range(count)]
    texts = []
    for length in lengths:
        nearest = min(range(len(by_length)), key=lambda index: abs(len(by_length[index]) - length))
        texts.append(by_length.pop(nearest))
    random.Random(seed).shuffle(texts)
    return texts


@cache
def _docstrings() -> frozenset[str]:
    found = set()
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found.add(text)
    return frozenset(found)


def run() -> Result:
    import torch
    from sentence_transformers import SentenceTransformer

    from ingot.machine import default_threads
    from ingot.runtime.metrics import measure

    texts, threads = draw_texts(), default_threads()
    torch.set_num_threads(threads)
    peer = SentenceTransformer(str(minilm.folder()), device="cpu", local_files_only=True)
    with ingot.Embedder(minilm.engine(), threads=threads) as embedder:
        # Warm both, and see that they say the same.
        found = measure(peer.encode(texts), embedder.encode(texts), "float32")
        times = take_turns(ROUNDS, ours=timed(lambda: embedder.encode(texts)), theirs=timed(lambda: peer.encode(texts)))
    speedup = paired_speedup(times["ours"], times["theirs"])
    lengths = sorted(len(text) for text in texts)
    rows = [
        ("ingot.Embedder", milliseconds(times["ours"]), ratio(speedup), f"{found.worst_db:.0f}"),
        ("SentenceTransformer", milliseconds(times["theirs"]), ratio(1.0), ""),
    ]
    title = f"{len(texts)} texts of {lengths[0]} to {lengths[-1]} characters, {threads} threads each, in turn"
    return Result(
        [Table(title, ("encode", "ms", "speed-up", "worst row dB"), rows, "median (least); paired median")],
        {"embedder_speed": speedup, "embedder_accuracy": found.worst_db},
        {"seconds": times, "threads": threads},
    )


BENCHMARK = Benchmark(
    "embedder",
    (Bar("embedder_speed", "least", 1.15, "x"), Bar("embedder_accuracy", "least", 100.0, "dB")),
    run,
)
