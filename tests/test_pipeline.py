"""The whole compile: verified or not written, faults located, the same bytes each time, the module left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest
import torch

import ingot
from ingot import pipeline
from ingot.errors import PassError, SourceError, UsageError, VerificationError
from ingot.passes.contract import Notes, Pass
from ingot.runtime.metrics import measure


class Block(torch.nn.Module):
    """x [batch, 16] -> [batch, 4], through a norm whose epsilon matters."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.up, self.norm, self.down = torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.Linear(32, 4)
        self.dropout = torch.nn.Dropout(0.5)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0.0, 0.1, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.up(x))
        hidden = self.norm(hidden)  # the line that the planted pass breaks
        result: torch.Tensor = self.down(self.dropout(hidden))
        return result


class RaiseEpsilon(Pass):
    """LayerNormalization(x) -> LayerNormalization(x) with a wrong epsilon: a planted fault."""

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in model.graph:
            if node.op_type == "LayerNormalization":
                node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)
                notes.rewrites += 1
        return notes.rewrites > 0


class Lie(Pass):
    """x -> x, and says that it changed something."""

    def run(self, model: ir.Model, notes: Notes) -> bool:
        return True


@pytest.fixture
def block(seed: int) -> Block:
    return Block(seed)


@pytest.fixture
def x(seed: int) -> torch.Tensor:
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))


def plant(monkeypatch: pytest.MonkeyPatch, wrong: Pass) -> None:
    right = pipeline.passes
    monkeypatch.setattr(pipeline, "passes", lambda: [*right(), wrong])


def test_a_wrong_pass_is_found_to_the_node_and_the_line_and_nothing_is_written(
    block: Block, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    plant(monkeypatch, RaiseEpsilon())
    with pytest.raises(VerificationError) as caught:
        ingot.compile(block, x)
    assert "output 'output'" in caught.value.what
    assert "needs 100 dB" in caught.value.what
    assert caught.value.where is not None
    assert "LayerNormalization" in caught.value.where
    assert "test_pipeline.py" in caught.value.where
    assert "self.norm(hidden)" in caught.value.where
    assert caught.value.fix is not None
    assert "INGOT_SEED=" in caught.value.fix
    # onnxruntime leaves a file of its own, ".ses", in TMPDIR.
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".ses"] == []


def test_a_lying_pass_is_named(block: Block, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Lie())
    with pytest.raises(PassError, match="pass lie says it changed the graph and did not"):
        ingot.compile(block, x)


def test_the_module_is_compiled_in_eval_mode_and_put_back(block: Block, x: torch.Tensor) -> None:
    block.train()
    block.norm.eval()
    with ingot.compile(block, x) as engine:
        got = engine(x)
    assert block.training
    assert block.dropout.training
    assert not block.norm.training
    block.eval()
    with torch.no_grad():
        found = measure(block(x).numpy(), got.numpy(), "float32")
    assert found.holds


def test_the_module_is_put_back_when_compiling_fails(monkeypatch: pytest.MonkeyPatch, block: Block) -> None:
    block.train()
    with pytest.raises(ingot.CompileError):
        ingot.compile(block, torch.ones(3, 5))
    assert block.training


def test_what_was_not_verified_says_so_and_is_not_loaded(block: Block, x: torch.Tensor, tmp_path: Path) -> None:
    with ingot.compile(block, x, verify="off") as engine:
        path = engine.save(tmp_path / "model.ingot")
        assert engine.report["verification"] == "off"
    with pytest.raises(ingot.EngineError, match="--verify off"):
        ingot.load(path)
    with ingot.load(path, allow_unverified=True) as engine:
        assert engine(x).shape == (3, 4)


@pytest.mark.parametrize("verify", ["full", "quick", "off"])
def test_a_model_that_keeps_something_between_calls_is_refused(x: torch.Tensor, verify: Literal["full"]) -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(SourceError, match="keeps something between calls"):
        ingot.compile(Counting(), x, verify=verify)


def test_quick_looks_at_the_users_inputs_alone(block: Block, x: torch.Tensor) -> None:
    with ingot.compile(block, x, verify="quick") as engine:
        (case,) = engine.report["accuracy"]["cases"]
        assert case["origin"] == "user"
        assert engine.report["verification"] == "quick"


def test_nan_weights_are_a_warning_that_names_them(block: Block, x: torch.Tensor) -> None:
    with torch.no_grad():
        block.down.weight[0, 0] = float("nan")
    with ingot.compile(block, x) as engine:
        assert any("down.weight" in warning for warning in engine.report["warnings"])
        assert np.isnan(engine(x.numpy())[:, 0]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "toaster"}, "no target 'toaster'"),
        ({"verify": "maybe"}, "verify is 'maybe'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": "2"}, "threads is '2'"),
        ({"translations": [1]}, "translations is a list"),
    ],
)
def test_options_that_cannot_be_meant(block: Block, x: torch.Tensor, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ingot.compile(block, x, **options)


def test_saving_leaves_the_engine_running_and_closing_removes_its_own_file(
    block: Block, x: torch.Tensor, tmp_path: Path
) -> None:
    engine = ingot.compile(block, x)
    temporary = engine.path
    saved = engine.save(tmp_path / "a" / ".." / "model.ingot") if (tmp_path / "a").mkdir() is None else None
    before = engine(x.numpy())
    engine.close()
    assert not temporary.exists()
    assert saved is not None
    with ingot.load(saved) as loaded:
        assert loaded(x.numpy()).tobytes() == before.tobytes()


COMPILE = """
import sys, torch, ingot
sys.path.insert(0, sys.argv[1])
from test_pipeline import Block
x = torch.randn(3, 16, generator=torch.Generator().manual_seed(7))
ingot.compile(Block(7), x).save(sys.argv[2])
"""


def test_another_process_in_another_folder_on_another_day_writes_the_same_bytes(tmp_path: Path) -> None:
    members = []
    for name, zone in (("one", "UTC"), ("two", "Pacific/Kiritimati")):
        folder = tmp_path / name
        folder.mkdir()
        environment = {**os.environ, "TZ": zone, "PYTHONHASHSEED": str(len(name)), "TMPDIR": str(folder)}
        command = [sys.executable, "-c", COMPILE, str(Path(__file__).parent), str(folder / "model.ingot")]
        subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
        with zipfile.ZipFile(folder / "model.ingot") as archive:
            members.append({entry: archive.read(entry) for entry in archive.namelist()})
    assert members[0].keys() == members[1].keys()
    different = [entry for entry in members[0] if members[0][entry] != members[1][entry]]
    assert different in ([], ["record.json"])
