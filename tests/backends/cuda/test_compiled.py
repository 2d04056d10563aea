"""A whole compile for both of ONNX Runtime's targets: one file, proven, with the weights in it once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.backends.onnxruntime.pack import WEIGHTS
from ingot.file.read import EngineFile
from ingot.frontend.source import resolve
from ingot.models import residual, transformer
from ingot.models.example import Example
from ingot.pipeline import CompileOptions, compile_source
from ingot.progress import Silent


@pytest.mark.parametrize(
    ("build", "on_processor"),
    # What the CUDA provider of onnxruntime-gpu 1.31.1 itself recorded for these graphs.
    [(residual.build, {}), (transformer.gpt, {"Squeeze": 1})],
    ids=["residual", "gpt"],
)
def test_a_compile_for_both_targets(
    tmp_path: Path, build: Callable[[int], Example], on_processor: dict[str, int], seed: int
) -> None:
    example = build(seed)
    source = resolve(example.module, example.kwargs or example.args)
    options = CompileOptions(targets=("cuda", "cpu"), dynamic_shapes=example.dynamic_shapes, verify="quick")
    draft = compile_source(source, options, folder=tmp_path, progress=Silent())
    with draft, EngineFile.open(draft.path) as file:
        cuda, cpu = file.header.targets
        assert cuda.members["weights"] == cpu.members["weights"] == WEIGHTS
        assert next(iter(file.header.members)) == WEIGHTS, "the graphs name its place"
        assert cuda.options["on_processor"] == on_processor
        held = {item["target"]: item for item in file.record()["held"]}
    assert held["cuda"]["what"] == "the same graph, on ONNX Runtime's CPU provider"
    assert not held["cuda"]["ran"]
    assert held["cpu"]["ran"]
