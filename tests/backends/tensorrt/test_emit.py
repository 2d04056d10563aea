"""An emitted build is finished elsewhere by Ingot's base install: a complete engine file, held to its vectors."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from ingot.backends.contract import BuildOptions
from ingot.backends.targets import builder
from ingot.backends.tensorrt import finish as finish_module
from ingot.backends.tensorrt.build import TensorRtBuilder
from ingot.backends.tensorrt.emit import emit
from ingot.backends.tensorrt.finish import finish
from ingot.cuda_driver import Driver, Gpu
from ingot.errors import BuildError, UsageError
from ingot.file.header import Header
from ingot.file.read import EngineFile
from ingot.file.write import Part
from ingot.signature import Dim, Signature, Tensor
from ingot.version import __version__

pytest.importorskip("tensorrt_rtx", reason="the job is finished with the real builder")

SIGNATURE = Signature(
    (Tensor("x", "float16", ("B", 8)),), (Tensor("y", "float16", ("B", 8)),), (Dim("B", 1, 16),), {}, {"tensor": 0}
)


def emitted(tmp_path: Path, target: str, *archs: str) -> Path:
    """x @ w, with one self-test case."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]> net (float16[B, 8] x) => (float16[B, 8] y) <float16[1] w = {0}>
        { y = MatMul (x, w) }"""
    )
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(2 * np.eye(8, dtype=np.float16), name="w")
    weight.shape = ir.Shape((8, 8))
    vectors = io.BytesIO()
    x = np.ones((2, 8), np.float16)
    np.savez(vectors, allow_pickle=False, **{"example/in/x": x, "example/out/y": 2 * x})
    made = builder(target)
    assert isinstance(made, TensorRtBuilder)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    prepared = made.prepare(model, BuildOptions(threads=1, folder=scratch, signature=SIGNATURE, archs=archs))
    header = Header("net", SIGNATURE, (), "full", "fast", {"ingot": __version__}, selftest="selftest.npz")
    folder = tmp_path / "emitted"
    emit(prepared, folder, header, [Part.of("selftest.npz", vectors.getvalue())])
    # It is to stand alone: nothing of the compile is left.
    shutil.rmtree(scratch)
    return folder


def test_finish_builds_packs_and_says_why_it_is_not_run_here(tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89", "sm_120")
    done = subprocess.run([sys.executable, str(folder / "finish.py")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"wrote {folder / 'net.ingot'}" in done.stdout
    with EngineFile.open(folder / "net.ingot", strict=True) as file:
        (target,) = file.header.targets
        assert target.name == "tensorrt-rtx"
        assert target.needs["gpu"] == "sm_89,sm_120"
        assert target.options["profiles"] == {"x": [[1, 8], [1, 8], [16, 8]]}
        assert file.header.selftest == "selftest.npz"
        assert file.header.members[target.members["plan"]].size_bytes > 1000
    if "holds its self-test vectors" not in done.stdout:
        assert "not run: this machine lacks what engine 'net' needs" in done.stdout


def test_finish_needs_no_more_than_the_base_install(tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'onnx_graphsurgeon', 'polygraphy', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "import runpy\n"
        f"sys.argv = ['finish.py', {str(tmp_path / 'other.ingot')!r}]\n"
        f"runpy.run_path({str(folder / 'finish.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other.ingot").exists()


def test_finish_again_gives_the_same_members(tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    headers = []
    for name in ("one.ingot", "two.ingot"):
        with EngineFile.open(finish(folder, tmp_path / name)) as file:
            headers.append(file.header)
    assert headers[0] == headers[1]


def test_a_build_that_fails_there_is_an_error_on_stderr(tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    (folder / "build" / "graph.onnx").write_bytes(b"\xff" * 100)
    done = subprocess.run([sys.executable, str(folder / "finish.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: tensorrt-rtx's parser refuses the graph")
    assert not (folder / "net.ingot").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "emitted").mkdir()
    (tmp_path / "emitted" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        emitted(tmp_path, "tensorrt-rtx", "sm_89")
    assert [path.name for path in (tmp_path / "emitted").iterdir()] == ["mine"]


def test_full_tensorrt_is_emitted_without_it_and_asks_for_its_gpu_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = emitted(tmp_path, "tensorrt", "sm_90")
    assert json.loads((folder / "build" / "spec.json").read_text())["archs"] == ["sm_90"]
    assert "ingot-compiler[tensorrt]" in (folder / "README.txt").read_text()
    monkeypatch.setattr(finish_module, "installed_version", lambda name: None)
    with pytest.raises(BuildError, match="tensorrt is not installed here"):
        finish(folder)
    monkeypatch.setattr(finish_module, "installed_version", lambda name: "11.4.0.106")
    monkeypatch.setattr(finish_module, "this_driver", lambda: Driver(None, (), "no NVIDIA driver"))
    with pytest.raises(BuildError, match="here is none"):
        finish(folder)
    gpu = Gpu(0, "a card", "sm_86", 1 << 30)
    monkeypatch.setattr(finish_module, "this_driver", lambda: Driver("13.0", (gpu,), None))
    with pytest.raises(BuildError, match=r"emitted for sm_90, and this GPU is a card \(sm_86\)"):
        finish(folder)


def test_full_tensorrt_without_an_architecture_takes_the_gpu_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder is RTX's under the name of the full one: what is tried is the way there, not TensorRT."""
    folder = emitted(tmp_path, "tensorrt")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(
        "import tensorrt_rtx as rtx\nfrom tensorrt_rtx import *\nfrom tensorrt_rtx import __version__\n"
        "class Config:\n"
        "    def __init__(self, real): self.__dict__['real'] = real\n"
        "    def __getattr__(self, name): return getattr(self.real, name)\n"
        "    def __setattr__(self, name, value): setattr(self.real, name, value)\n"
        "    def create_timing_cache(self, data): return data\n"
        "    def set_timing_cache(self, cache, ignore): return True\n"
        "    def get_timing_cache(self): return type('Cache', (), {'serialize': lambda self: b'x'})()\n"
        "class Builder(rtx.Builder):\n"
        "    def create_builder_config(self): return Config(rtx.Builder.create_builder_config(self))\n"
        "    def build_serialized_network_to_stream(self, network, config, writer):\n"
        "        config.real.num_compute_capabilities = 1\n"
        "        config.real.set_compute_capability(rtx.ComputeCapability.SM86, 0)\n"
        "        return rtx.Builder.build_serialized_network_to_stream(self, network, config.real, writer)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(finish_module, "installed_version", lambda name: "11.4.0.106")
    gpu = Gpu(0, "a card", "sm_86", 1 << 30)
    monkeypatch.setattr(finish_module, "this_driver", lambda: Driver("13.0", (gpu,), None))
    with EngineFile.open(finish(folder)) as file:
        (target,) = file.header.targets
    assert target.name == "tensorrt"
    assert target.needs["gpu"] == "sm_86"
    assert target.options["proven"] is False
