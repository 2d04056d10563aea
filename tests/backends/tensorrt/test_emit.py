"""An emitted build is finished elsewhere by Ingot's base install: a complete engine file, held to its vectors."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from ingot.backends.contract import BuildOptions
from ingot.backends.targets import builder
from ingot.backends.tensorrt import emit as emit_module
from ingot.backends.tensorrt import finish as finish_module
from ingot.backends.tensorrt.build import Prepared, TensorRtBuilder
from ingot.backends.tensorrt.emit import check_folder, emit
from ingot.backends.tensorrt.finish import LIST, digest, finish, main
from ingot.cuda_driver import Driver, Gpu
from ingot.errors import BuildError, IngotError, UsageError
from ingot.file.header import Header
from ingot.file.read import EngineFile
from ingot.file.write import Part
from ingot.signature import Dim, Signature, Tensor
from ingot.version import __version__

pytest.importorskip("tensorrt_rtx", reason="the job is finished with the real builder")

SIGNATURE = Signature(
    (Tensor("x", "float16", ("B", 32)),), (Tensor("y", "float16", ("B", 32)),), (Dim("B", 1, 16),), {}, {"tensor": 0}
)


def emitted(tmp_path: Path, target: str, *archs: str, before: Callable[[Prepared], None] | None = None) -> Path:
    """x @ w, with one self-test case."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]> net (float16[B, 32] x) => (float16[B, 32] y) <float16[1] w = {0}>
        { y = MatMul (x, w) }"""
    )
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(2 * np.eye(32, dtype=np.float16), name="w")
    weight.shape = ir.Shape((32, 32))
    vectors = io.BytesIO()
    x = np.ones((2, 32), np.float16)
    np.savez(vectors, allow_pickle=False, **{"example/in/x": x, "example/out/y": 2 * x})
    made = builder(target)
    assert isinstance(made, TensorRtBuilder)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    prepared = made.prepare(model, BuildOptions(threads=1, folder=scratch, signature=SIGNATURE, archs=archs))
    header = Header("net", SIGNATURE, (), "full", "fast", {"ingot": __version__}, selftest="selftest.npz")
    folder = tmp_path / "emitted"
    if before is not None:
        before(prepared)
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
        assert target.options["profiles"] == {"x": [[1, 32], [1, 32], [16, 32]]}
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
    redigest(folder)
    before = files(folder)
    done = subprocess.run([sys.executable, str(folder / "finish.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: tensorrt-rtx's parser refuses the graph")
    assert files(folder) == before


def redigest(folder: Path) -> None:
    listed = json.loads((folder / LIST).read_text())
    listed["sha256"] = {name: digest(folder / name) for name in listed["sha256"]}
    (folder / LIST).write_text(json.dumps(listed))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def test_what_is_emitted_is_what_a_build_needs_and_nothing_that_a_proof_left(tmp_path: Path) -> None:
    def proven(prepared: Prepared) -> None:
        session = prepared.proofs()[1].open()
        session.run([np.ones((2, 32), np.float16)])
        session.close()

    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89", before=proven)
    assert set(files(folder)) == {
        "README.txt",
        "finish.py",
        "header.json",
        "members.json",
        "members/selftest.npz",
        "build/graph.onnx",
        "build/spec.json",
        "build/weights.bin",
    }


@pytest.mark.parametrize("broken", ["members/selftest.npz", "build/weights.bin", "header.json", "build/spec.json"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_folder_that_was_damaged_on_the_way_is_refused(broken: str, how: str, tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    if how == "missing":
        (folder / broken).unlink()
    else:
        data = bytearray((folder / broken).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / broken).write_bytes(data)
    with pytest.raises(UsageError, match=f"{broken}'") as caught:
        finish(folder)
    assert "copy the whole folder again" in str(caught.value.fix)
    assert not (folder / "net.ingot").exists()


def test_a_damaged_list_of_the_files_is_refused(tmp_path: Path) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    (folder / LIST).write_text('{"members": ')
    with pytest.raises(UsageError, match=r"members.json' is missing or damaged"):
        finish(folder)


def test_finish_works_in_a_folder_that_cannot_be_written_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    before = files(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    relative = Path(os.path.relpath(folder))
    assert finish(relative, Path("out.ingot")).exists()
    assert files(folder) == before
    assert [path.name for path in Path().iterdir()] == ["out.ingot"]
    with pytest.raises(UsageError, match="there is no folder 'nowhere'"):
        finish(relative, Path("nowhere/out.ingot"))


def test_finish_shows_how_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path, ["--help"]) == 0
    assert main(tmp_path, ["one", "two"]) == 2
    assert main(tmp_path, ["--output"]) == 2
    assert capsys.readouterr().out.count("usage: python finish.py [OUTPUT]") == 3


def test_finish_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = emitted(tmp_path, "tensorrt-rtx", "sm_89")
    before = files(folder)

    def interrupted(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finish_module, "run", interrupted)
    assert main(folder, []) == 130
    assert "nothing is left" in capsys.readouterr().err
    assert files(folder) == before
    assert not list(folder.glob(".ingot-build-*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_fills_up_while_emitting_leaves_nothing(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(emit_module, "write_part", full)
    if there:
        (tmp_path / "emitted").mkdir()
    with pytest.raises(IngotError, match="no room"):
        emitted(tmp_path, "tensorrt-rtx", "sm_89")
    assert (tmp_path / "emitted").exists() == there
    assert not there or list((tmp_path / "emitted").iterdir()) == []


@pytest.mark.parametrize("place", ["a-file", "a-file/below", "nowhere/below"])
def test_a_place_that_cannot_be_emitted_into_is_refused_before_any_work(place: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("mine")
    with pytest.raises(UsageError) as caught:
        check_folder(tmp_path / place)
    assert caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


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
