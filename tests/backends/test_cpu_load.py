"""The loader of the target cpu: wherever the file lies, whatever is installed, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.backends import needs
from ingot.backends.cpu import load as cpu
from ingot.errors import EngineError, FormatError, RequirementError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.machine import Machine
from ingot.models.handmade import ENCODER, ENCODER_SIGNATURE, encoder_table, write_encoder, write_engine
from ingot.runtime.open import open_engine
from ingot.signature import Tensor

HERE = Machine("linux", "x86_64", frozenset({"avx2", "avx512f"}))

IDS, MASK = np.array([[1, 2, 3]]), np.array([[1, 1, 0]])


@pytest.fixture
def engine_file(tmp_path: Path, seed: int) -> Path:
    return write_encoder(tmp_path / "encoder.ingot", seed)


def computes(path: Path, seed: int) -> bool:
    with open_engine(path, threads=1) as engine:
        return np.allclose(engine(IDS, MASK).embedding, encoder_table(seed)[[1, 2]].mean(0), atol=1e-6)


@pytest.mark.parametrize("name", ["x", "a b.ingot", "größe-重み.ingot", "n" * 255, "odd", "even"])
def test_runs_under_any_name(engine_file: Path, seed: int, name: str) -> None:
    assert computes(engine_file.rename(engine_file.with_name(name)), seed)


def test_runs_through_links_from_a_read_only_folder_and_by_a_relative_name(
    engine_file: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "read only"
    home.mkdir()
    moved = engine_file.rename(home / "m.ingot")
    home.chmod(0o555)
    (tmp_path / "far").mkdir()
    link = tmp_path / "far" / "link.ingot"
    link.symlink_to(moved)
    chain = tmp_path / "chain"
    chain.symlink_to(link)
    try:
        assert computes(chain, seed)
        monkeypatch.chdir(tmp_path)
        assert computes(Path("far/link.ingot"), seed)
    finally:
        home.chmod(0o755)


def target_of(path: Path, **changes: Any) -> tuple[EngineFile, Target]:
    file = EngineFile.open(path)
    return file, file.header.targets[0]._replace(**changes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimization": "most"}, "optimization 'most'"),
        ({"config": {"session.load_model_format": "ORT"}}, "may not"),
        ({"config": {"ep.context_file_path": "/x"}}, "may not"),
        ({"config": "x"}, "must be an object"),
        ({"config": {"session.disable_prepacking": "1" * 9000}}, "no value of it"),
        ({"config": {"session.disable_prepacking": ["1"]}}, "no value of it"),
        ({"config": {"session.disable_prepacking": "\ud800"}}, "no value of it"),
        ({"disabled_optimizers": 5}, "must be a list of names"),
        ({"disabled_optimizers": [1]}, "must be a list of names"),
    ],
)
def test_a_file_chooses_only_what_is_allowed(engine_file: Path, options: dict[str, Any], said: str) -> None:
    file, target = target_of(engine_file, options=options)
    with file, pytest.raises(FormatError, match=said):
        cpu.LOADER.load(file, target, threads=1)


def test_options_of_the_file_are_taken(engine_file: Path) -> None:
    allowed = {"optimization": "disabled", "config": {"session.intra_op.allow_spinning": "0"}}
    file, target = target_of(engine_file, options=allowed | {"disabled_optimizers": ["MatMulAddFusion"]})
    with file:
        session = cpu.LOADER.load(file, target, threads=1)
        assert session.run([IDS, MASK])[0].shape == (1, 8)
        session.close()
        with pytest.raises(EngineError, match="closed"):
            session.run([IDS, MASK])


def test_a_graph_that_onnx_runtime_refuses_is_an_engine_error(tmp_path: Path) -> None:
    graph = ENCODER.replace("Gather", "NoSuch")
    path = write_engine(tmp_path / "bad.ingot", graph, ENCODER_SIGNATURE, {"table": encoder_table(0)})
    with pytest.raises(EngineError, match="refuses the engine's graph") as caught:
        open_engine(path)
    assert "NoSuch" in str(caught.value)
    assert caught.value.fix


def test_a_header_that_names_other_inputs_than_the_graph_is_refused(tmp_path: Path, seed: int) -> None:
    inputs = (Tensor("tokens", "int64", ("batch", "sequence")), ENCODER_SIGNATURE.inputs[1])
    signature = ENCODER_SIGNATURE._replace(inputs=inputs)
    path = write_engine(tmp_path / "other.ingot", ENCODER, signature, {"table": encoder_table(seed)})
    with pytest.raises(FormatError, match="the graph's inputs are ids, mask"):
        open_engine(path)


def test_a_failing_run_is_an_engine_error_with_the_shapes(tmp_path: Path) -> None:
    signature = ENCODER_SIGNATURE._replace(inputs=tuple(t._replace(domain=None) for t in ENCODER_SIGNATURE.inputs))
    path = write_engine(tmp_path / "e.ingot", ENCODER, signature, {"table": encoder_table(0)})
    with open_engine(path) as engine, pytest.raises(EngineError, match="failed while running") as caught:
        engine(IDS + 1000, MASK)
    assert "[1, 3]" in str(caught.value)


def test_a_file_replaced_while_loading_is_noticed(engine_file: Path, tmp_path: Path, seed: int) -> None:
    with EngineFile.open(engine_file) as file:
        os.replace(write_encoder(tmp_path / "new.ingot", seed + 1), engine_file)
        with pytest.raises(EngineError, match="replaced while it was being loaded"):
            cpu.LOADER.load(file, file.header.targets[0], threads=1)


@pytest.mark.parametrize(
    ("needs", "requirement"),
    [
        ({"onnxruntime": ">=99"}, "onnxruntime >=99"),
        ({"arch": "aarch64"}, "a processor of aarch64"),
        ({"features": "avx2,amx_tile"}, "the processor features amx_tile"),
        ({"moonlight": ">=2"}, "moonlight >=2"),
    ],
)
def test_unmet_requirements_are_named(needs: dict[str, str], requirement: str) -> None:
    (unmet,) = cpu.LOADER.unmet(Target("cpu", {}, needs), HERE)
    assert unmet.requirement == requirement
    assert unmet.found
    assert unmet.fix


def test_met_requirements_are_not() -> None:
    needs = {"onnxruntime": ">=1.31,<99", "arch": "x86_64,aarch64", "features": "avx2,avx512f"}
    assert cpu.LOADER.unmet(Target("cpu", {}, needs), HERE) == []


@pytest.mark.parametrize(
    ("installed", "found", "fix"),
    [
        ({}, "none", "pip install 'ingot-compiler[cpu]'"),
        ({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "in one place", needs.ONE_RUNTIME.format(extra="cpu")),
        ({"onnxruntime-gpu": "1.20.0"}, "1.20.0", "onnxruntime-gpu>=1.31"),
    ],
)
def test_a_missing_double_or_old_runtime_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], found: str, fix: str
) -> None:
    monkeypatch.setattr(needs, "installed_version", installed.get)
    (unmet,) = cpu.LOADER.unmet(Target("cpu", {}, cpu.LOADER.needs), HERE)
    assert found in unmet.found
    assert fix in unmet.fix


def test_two_runtimes_are_refused_at_load(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
    file, target = target_of(engine_file)
    monkeypatch.setattr(needs, "installed_version", both.get)
    with file, pytest.raises(RequirementError, match="pip uninstall"):
        cpu.LOADER.load(file, target, threads=1)


FORKED = """
import os, sys
import numpy as np
from ingot.errors import EngineError
from ingot.runtime.open import open_engine

path, threads = sys.argv[1], int(sys.argv[2])
engine = open_engine(path, threads=threads)
ids, mask = np.ones((1, 3), np.int64), np.ones((1, 3), np.int64)
if os.fork() == 0:
    try:
        engine(ids, mask)
    except EngineError as error:
        os._exit(3 if "forked" in str(error) else 4)
    os._exit(0)
_, status = os.wait()
engine(ids, mask)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("threads", "outcome"), [(1, "0"), (2, "3")])
def test_a_forked_child_runs_without_a_pool_and_is_told_with_one(engine_file: Path, threads: int, outcome: str) -> None:
    command = [sys.executable, "-c", FORKED, str(engine_file), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == (outcome, 0), done.stderr


def test_loading_copies_no_weights(tmp_path: Path, seed: int) -> None:
    """64 MB of weights, mapped: loading may not take a quarter of that in anonymous memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to see anonymous memory")
    words = 2**21
    table = np.random.default_rng(seed).standard_normal((words, 8)).astype(np.float32)
    path = write_engine(tmp_path / "large.ingot", ENCODER, ENCODER_SIGNATURE, {"table": table})
    code = (
        "import sys, re, onnxruntime, numpy\n"
        "from ingot.runtime.open import open_engine\n"
        "def anonymous():\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
        "before = anonymous()\n"
        "engine = open_engine(sys.argv[1], threads=1)\n"
        "engine(numpy.ones((1, 3), 'int64'), numpy.ones((1, 3), 'int64'))\n"
        "print(anonymous() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < table.nbytes / 4


def test_a_truncated_copy_is_no_engine(engine_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.ingot"
    shutil.copy(engine_file, cut)
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(FormatError):
        open_engine(cut)
