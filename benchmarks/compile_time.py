"""Compiling MiniLM cold, verification included, against torch's own export alone: whole processes in turn."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import minilm
from benchmarks.harness import Bar, Benchmark, Result, Table, paired_speedup, ratio, take_turns
from benchmarks.processes import INGOT, seconds

ROUNDS = 3

EXPORT = """
import sys
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], local_files_only=True).eval()
ids = torch.randint(1000, 30000, (2, 16))
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
shapes = {name: axes for name in inputs}
program = torch.onnx.export(model, (), kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)
program.save(sys.argv[2])
"""
"""The least that anybody would type; it neither pools nor verifies."""


def run() -> Result:
    folder = str(minilm.folder())
    with tempfile.TemporaryDirectory() as home:
        ours = [*INGOT, "compile", folder, "-o", str(Path(home) / "ours.ingot"), "--quiet"]
        theirs = [sys.executable, "-c", EXPORT, folder, str(Path(home) / "theirs.onnx")]
        times = take_turns(ROUNDS, ours=lambda: seconds(ours), theirs=lambda: seconds(theirs))
    factor = 1 / paired_speedup(times["ours"], times["theirs"])
    rows = [
        (name, *(f"{pick(times[key]):.1f}" for pick in (min, statistics.median, max)), ratio(value))
        for name, key, value in (
            ("ingot compile, verified", "ours", factor),
            ("torch.onnx.export alone", "theirs", 1.0),
        )
    ]
    head = ("process", "least s", "median s", "most s", "factor")
    return Result([Table("MiniLM, whole processes in turn", head, rows)], {"compile_time": factor}, {"seconds": times})


BENCHMARK = Benchmark("compile_time", (Bar("compile_time", "most", 2.5, "x"),), run)
