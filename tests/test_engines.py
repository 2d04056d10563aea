"""Every model of the catalogue: compiled, saved, loaded without PyTorch, run at other sizes, held to eager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ingot
from ingot.cli.arrays import draw_inputs
from ingot.frontend.structure import take_apart
from ingot.models.catalogue import CATALOGUE, Entry
from ingot.runtime.metrics import measure
from ingot.verify.draw import Case
from ingot.verify.reference import Reference

RUN_WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "onnxscript", "transformers", "click"):
            raise ImportError(f"{name} is not for production")

sys.meta_path.insert(0, Refuse())
import numpy as np
import ingot

engine, inputs, outputs = sys.argv[1:]
with ingot.load(engine, threads=1) as loaded, np.load(inputs) as arrays:
    np.savez(outputs, **loaded.run_named({name: arrays[name] for name in arrays.files}))
assert not {"torch", "onnx", "click"} & set(sys.modules)
"""


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_engine_computes_in_production_what_the_model_computes(
    entry: Entry, tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    if entry.name == "minilm":
        request.getfixturevalue("minilm_folder")
    example = entry.build(seed)
    with ingot.compile(example.module, example.args or example.kwargs, dynamic_shapes=example.dynamic_shapes) as engine:
        path = engine.save(tmp_path / "model.ingot")
        signature = engine.header.signature
    call = take_apart(example.module.forward, example.args, example.kwargs)
    reference = Reference(example.module, signature, call)
    for index, sizes in enumerate(entry.sizes):
        inputs = draw_inputs(signature, sizes, seed + index)
        np.savez(tmp_path / "in.npz", **inputs)
        command = [sys.executable, "-c", RUN_WITHOUT_TORCH, path, tmp_path / "in.npz", tmp_path / "out.npz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        case = Case(str(sizes), "drawn", tuple(inputs[tensor.name] for tensor in signature.inputs))
        expected = reference.run(case)
        with np.load(tmp_path / "out.npz") as got:
            for tensor, array in zip(signature.outputs, expected, strict=True):
                found = measure(array, got[tensor.name], tensor.dtype)
                assert found.holds, f"{tensor.name} at {sizes}: {found}"
