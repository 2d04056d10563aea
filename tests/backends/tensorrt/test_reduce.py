"""A build that fails ends in the smallest piece that fails alike, as a file and a script that shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ingot.backends.contract import BuildOptions
from ingot.backends.targets import builder
from ingot.backends.tensorrt import build as build_module
from ingot.backends.tensorrt import reduce
from ingot.backends.tensorrt.operators import table as operators
from ingot.errors import BuildError, UsageError
from ingot.ir.provenance import SOURCE
from ingot.signature import Dim, Signature, Tensor

pytest.importorskip("tensorrt_rtx", reason="real builds are cut down")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and nothing is refused before the builder."""
    monkeypatch.setattr(operators, "unsupported", lambda *arguments: [])
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def chain(before: int, broken: str, after: int, constants: str) -> ir.Model:
    """Sines, what breaks the build, cosines."""
    front = "  ".join(f"a{index + 1} = Sin (a{index})" for index in range(before))
    back = "  ".join(f"b{index + 1} = Cos (b{index})" for index in range(after))
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 23]> net (float[B, 8, 64] x) => (float[B, 8, 64] y)
        <{constants}> {{ a0 = Neg (x)  {front}  t = Add (a{before}, w)  b0 = {broken}  {back}  y = Abs (b{after}) }}"""
    )
    for index, node in enumerate(model.graph):
        node.metadata_props[SOURCE] = f"net.py:{index}: {node.op_type}"
    weight = np.ones((1, 8, 64), np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    model.graph.initializers["w"].shape = ir.Shape(weight.shape)
    return model


def fail(model: ir.Model, folder: Path, **more: Any) -> BuildError:
    tensors = [Tensor(name, "float32", ("B", 8, 64)) for name in "xy"]
    signature = Signature((tensors[0],), (tensors[1],), (Dim("B", 1, 16),), {}, {"tuple": []})
    folder.mkdir(exist_ok=True)
    options = BuildOptions(threads=1, folder=folder, signature=signature, archs=("sm_89",), name="my net", **more)
    with pytest.raises(BuildError) as caught:
        builder("tensorrt-rtx").build(model, options)
    return caught.value


ROTARY = "RotaryEmbedding <num_heads = 0> (t, c, s)"
TABLES = f"float[1] w = {{0}}, float[1, 1] c = {{1}}, float[1, 1] s = {{{0}}}"


def test_a_crash_ends_in_one_node_with_its_line_and_a_script_that_crashes(home: Path, tmp_path: Path) -> None:
    error = fail(chain(12, ROTARY, 9, TABLES), tmp_path / "build")
    assert "(SIGFPE)" in error.what
    assert error.where == "RotaryEmbedding -> b0 (net.py:14: RotaryEmbedding)"
    assert "python ingot-failed-my-net/reproduce.py shows it" in str(error.fix)
    piece = onnx.load(home / "ingot-failed-my-net" / "my-net-fails.onnx")
    assert [node.op_type for node in piece.graph.node] == ["RotaryEmbedding"]
    script = home / "ingot-failed-my-net" / "reproduce.py"
    assert len(script.read_text().splitlines()) < 16
    code = subprocess.run([sys.executable, str(script)], capture_output=True, cwd=tmp_path).returncode
    assert code == -8


def test_what_the_parser_names_is_tried_first_and_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    taken = home / "ingot-failed-my-net"
    taken.mkdir()
    broken = chain(6, "Gather <axis = 9> (t, i)", 3, "float[1] w = {0}, int64[1] i = {0}")
    error = fail(broken, tmp_path / "build")
    assert "parser refuses" in error.what
    assert "Gather -> b0 (net.py:8: Gather)" in str(error.where)
    assert list(taken.iterdir()) == []
    second = home / "ingot-failed-my-net-2"
    assert {path.name for path in second.iterdir()} == {"my-net-fails.onnx", "reproduce.py", "build.log"}
    piece = onnx.load(second / "my-net-fails.onnx")
    assert [node.op_type for node in piece.graph.node] == ["Gather"]
    assert not (tmp_path / "build" / "tensorrt-rtx" / "plan.bin").exists()


def test_a_piece_carries_the_weights_that_it_reads(home: Path, tmp_path: Path) -> None:
    error = fail(chain(3, "Gather <axis = 9> (w, i)", 2, "float[1] w = {0}, int64[1] i = {0}"), tmp_path / "build")
    assert "Provided axis is: 9" in error.what
    piece = onnx.load(home / "ingot-failed-my-net" / "my-net-fails.onnx", load_external_data=False)
    (weight,) = [tensor for tensor in piece.graph.initializer if tensor.name == "w"]
    assert not weight.external_data
    assert np.array_equal(onnx.numpy_helper.to_array(weight), np.ones((1, 8, 64), np.float32))


def test_zero_seconds_switch_it_off(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_BUILD_REDUCE_S", "0")
    error = fail(chain(2, ROTARY, 2, TABLES), tmp_path / "build")
    assert "reproduce.py" not in str(error)
    assert list(home.iterdir()) == []


def test_an_error_of_the_search_hides_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("the search is broken")

    monkeypatch.setattr(reduce, "reduced", fails)
    assert "(SIGFPE)" in fail(chain(2, ROTARY, 2, TABLES), tmp_path / "build").what


def test_a_time_that_is_no_number_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_BUILD_REDUCE_S", "soon")
    with pytest.raises(UsageError, match="INGOT_BUILD_REDUCE_S is 'soon'"):
        fail(chain(2, ROTARY, 2, TABLES), tmp_path / "build")


def test_what_is_not_the_graphs_fault_is_not_cut(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "CHILD", "ingot.backends.tensorrt.flavours")
    error = fail(chain(2, ROTARY, 2, TABLES), tmp_path / "build")
    assert "without a result" in error.what
    assert list(home.iterdir()) == []
