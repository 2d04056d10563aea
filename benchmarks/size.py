"""How much larger an engine is than the weights it carries."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ingot
from benchmarks import minilm
from benchmarks.harness import Bar, Benchmark, Result, Table


def run() -> Result:
    path = minilm.engine()
    stored = _tensor_bytes(minilm.folder() / "model.safetensors")
    with ingot.load(path) as engine:
        used = int(engine.report["model"]["weights_bytes"])
        members = [(name, f"{member.size_bytes:,}") for name, member in engine.header.members.items()]
    size = path.stat().st_size
    factor = size / min(stored, used)
    rows = [
        *members,
        ("engine file", f"{size:,}"),
        ("weights that the model uses", f"{used:,}"),
        ("tensors in model.safetensors", f"{stored:,}"),
    ]
    return Result(
        [Table("MiniLM for one target", ("", "bytes"), rows, "the bar is over the smaller count of weights")],
        {"size": factor},
    )


def _tensor_bytes(path: Path) -> int:
    """By the file's own header: a length in 8 bytes, then JSON with each tensor's place."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sum(end - start for start, end in places)


BENCHMARK = Benchmark("size", (Bar("size", "most", 1.02, "x"),), run)
