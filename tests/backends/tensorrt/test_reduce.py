"""A build that fails ends in the smallest piece that fails alike, as a file and a script that shows it."""

from __future__ import annotations

import json
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
from ingot.backends.tensorrt import reduce, reproduce
from ingot.backends.tensorrt.operators import table as operators
from ingot.backends.tensorrt.reduce import Symptom
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
    options = BuildOptions(
        threads=1, folder=folder, signature=signature, name="my net", **{"archs": ("sm_89",), **more}
    )
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
    assert len(script.read_text().splitlines()) < 20
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


def branching(blocks: int, at: int, broken: str) -> ir.Model:
    """Residual blocks of products and gates, one of which has what breaks the build between."""
    lines = ["a0 = Neg (x)"]
    for index in range(blocks):
        lines += [
            f"m{index} = MatMul (a{index}, k)",
            f"s{index} = Sigmoid (a{index})",
            f"g{index} = Mul (m{index}, s{index})",
        ]
        lines += [broken.replace("(g,", f"(g{index},")] if index == at else []
        lines += [f"a{index + 1} = Add (a{index}, {'z' if index == at else f'g{index}'})"]
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 23]> net (float[B, 8, 64] x) => (float[B, 8, 64] y)
        <float[1] k = {{0}}, float[1, 1] c = {{1}}, float[1, 1] s = {{0}}>
        {{ {"  ".join(lines)} y = Abs (a{blocks}) }}"""
    )
    weight = model.graph.initializers["k"]
    weight.const_value = ir.tensor(np.eye(64, dtype=np.float32), name="k")
    weight.shape = ir.Shape((64, 64))
    return model


def test_branches_are_cut_too(home: Path, tmp_path: Path) -> None:
    fail(branching(5, 3, "z = RotaryEmbedding <num_heads = 0> (g, c, s)"), tmp_path / "build")
    piece = onnx.load(home / "ingot-failed-my-net" / "my-net-fails.onnx")
    assert [node.op_type for node in piece.graph.node] == ["RotaryEmbedding"]


def test_what_the_builder_refuses_is_shown_by_the_script_with_its_words(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product of float32, for an architecture that TensorRT-RTX has none for."""
    monkeypatch.setattr(build_module, "lacking", lambda *arguments: [])
    error = fail(branching(3, -1, ""), tmp_path / "build", archs=("sm_75",))
    assert "FP32 GEMM is not supported" in error.what
    piece = onnx.load(home / "ingot-failed-my-net" / "my-net-fails.onnx")
    assert [node.op_type for node in piece.graph.node] == ["MatMul"]
    script = home / "ingot-failed-my-net" / "reproduce.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "FP32 GEMM is not supported" in done.stdout + done.stderr
    script.write_text(script.read_text().replace("(7, 5)", "(8, 9)"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built" in done.stdout


@pytest.mark.parametrize("name", ["INGOT_BUILD_TIMEOUT_S", "INGOT_BUILD_MEMORY_GB"])
def test_limits_that_nothing_is_built_within_are_not_the_graphs_fault(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "0.02")
    error = fail(branching(3, -1, ""), tmp_path / "build")
    assert "stopped" in error.what
    assert list(home.iterdir()) == []


def test_a_piece_with_our_plugin_brings_it_in_its_script(home: Path, tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.ones(64, np.float16), "w")
    node = onnx.helper.make_node("skip_norm", ["x", "x", "w"], ["y", "s"], domain="ingot")
    for key, value in {"inputs": "x,residual,weight", "plugin_version": "1", "plugin_namespace": "ingot"}.items():
        node.attribute.append(onnx.helper.make_attribute(key, value))
    io = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [2, 4, 64]) for name in "xys"]
    graph = onnx.helper.make_graph([node], "g", io[:1], io[1:], [weight])
    imports = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ingot", 1)]
    spec = {
        "flavour": "tensorrt-rtx",
        "archs": ["sm_120"],
        "initializers": [],
        "declared": None,
        "plugins": [{"name": "skip_norm", "version": 1, "kernels": []}],
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    piece = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    folder = reproduce.write(piece, tmp_path, "näme/with space")
    assert folder is not None
    done = subprocess.run([sys.executable, str(home / folder / "reproduce.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "built" in done.stdout


def test_another_failure_of_the_same_kind_is_not_the_one_that_is_looked_for() -> None:
    looked_for = Symptom(None, "build", frozenset({"Could not find any implementation for node .", "other words"}))
    assert Symptom(None, "build", frozenset({"other words"})).like(looked_for)
    assert not Symptom(None, "build", frozenset({"input gives sizes, and has no bounds"})).like(looked_for)
    assert not Symptom(None, "build").like(looked_for)
    assert not Symptom(None, "parse", looked_for.messages).like(looked_for)
    assert Symptom("time", 0).like(Symptom("time", 0))


def test_a_folder_that_cannot_be_filled_is_not_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reproduce, "_script", full)
    error = fail(chain(2, ROTARY, 2, TABLES), tmp_path / "build")
    assert "(SIGFPE)" in error.what
    assert "reproduce.py" not in str(error)
    assert list(home.iterdir()) == []


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
