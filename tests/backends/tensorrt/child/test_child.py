"""The child that builds: what it imports, what it holds the parser to, and where full TensorRT differs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.backends.tensorrt.build import CHILD
from ingot.backends.tensorrt.child.parse import GRAPH, LAYERS, LOG, OUTPUT, PLAN, SPEC, WEIGHTS
from ingot.backends.tensorrt.child.process import Limits, run
from ingot.backends.tensorrt.child.serve import NetworkSession
from ingot.backends.tensorrt.failure import failure, read_result
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.cuda_driver import this_driver

pytest.importorskip("tensorrt_rtx", reason="plans are built for real, under a fake of full TensorRT too")

FULL = '''
"""Full TensorRT where there is none: RTX's parser and builder, with the members that only the full one has or lacks."""
import tensorrt_rtx as rtx
from tensorrt_rtx import *
from tensorrt_rtx import __version__

SEEN = []
LACKING = {"num_compute_capabilities", "set_compute_capability", "get_compute_capability"}
del ComputeCapability

class Cache:
    def __init__(self, data):
        self.data = data
    def serialize(self):
        return self.data + b"measured"

class Config:
    def __init__(self, real):
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "cache", None)
    def __getattr__(self, name):
        if name in LACKING:
            raise AttributeError(name)
        return getattr(self.real, name)
    def __setattr__(self, name, value):
        if name in LACKING:
            raise AttributeError(name)
        if name == "hardware_compatibility_level":
            print("compatible", value.name, flush=True)
        else:
            setattr(self.real, name, value)
    def create_timing_cache(self, data):
        return Cache(data)
    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        object.__setattr__(self, "cache", cache)
        print("cache", cache.data, flush=True)
        return cache.data != b"of another GPU"
    def get_timing_cache(self):
        return self.cache

class Builder(rtx.Builder):
    def create_builder_config(self):
        return Config(rtx.Builder.create_builder_config(self))
    def build_serialized_network_to_stream(self, network, config, writer):
        config.real.num_compute_capabilities = 1
        config.real.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return rtx.Builder.build_serialized_network_to_stream(self, network, config.real, writer)
'''


def stage(folder: Path, flavour: str = "tensorrt-rtx", archs: tuple[str, ...] = ("sm_89",), **more: Any) -> Path:
    """x [B, 8] @ w, in float32."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 8])
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return write(folder, model, flavour, archs, **more)


def write(folder: Path, model: onnx.ModelProto, flavour: str, archs: tuple[str, ...], **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    (folder / WEIGHTS).write_bytes(b"")
    spec = {
        "flavour": flavour,
        "archs": list(archs),
        "initializers": [],
        "profile": {"x": {"min": [1, 8], "opt": [2, 8], "max": [4, 8]}},
        "domains": {},
        "declared": {"inputs": [["x", "float32", ["B", 8]]], "outputs": [["y", "float32", ["B", 8]]], "unread": []},
        "plugins": [],
        "libraries": [],
        "where": {"product": "MatMul -> y (net.py:3)"},
    }
    (folder / SPEC).write_text(json.dumps({**spec, **more}))
    return folder


def build(folder: Path) -> dict[str, Any]:
    outcome = run(CHILD, [str(folder)], output=folder / OUTPUT, limits=Limits(60))
    result = read_result(folder)
    assert result is not None, (folder / OUTPUT).read_text()
    assert (outcome.code == 0) == ("error" not in result)
    return result


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the timing caches; the child finds the fake under the name of the real one."""
    (tmp_path / "site" / "tensorrt").mkdir(parents=True)
    (tmp_path / "site" / "tensorrt" / "__init__.py").write_text(FULL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ingot"


def test_full_tensorrt_keeps_a_timing_cache_and_begins_anew_where_it_is_damaged(full: Path, tmp_path: Path) -> None:
    folder = stage(tmp_path / "build", "tensorrt", ())
    assert build(folder)["timing_cache"] == "new"
    assert (folder / PLAN).stat().st_size > 1000
    (cache,) = full.iterdir()
    assert re.fullmatch(r"tensorrt-timing-[\d.]+-[\w.-]+\.cache", cache.name)
    assert build(folder)["timing_cache"] == "read"
    assert "cache b'measured'" in (folder / OUTPUT).read_text()
    whole = cache.read_bytes()
    assert whole.endswith(b"measuredmeasured")
    cache.write_bytes(whole[:-1] + b"!")
    assert "damaged" in build(folder)["timing_cache"]
    assert [path.name for path in full.iterdir()] == [cache.name]


def test_full_tensorrt_takes_no_cache_of_another_gpu(full: Path, tmp_path: Path) -> None:
    import hashlib

    folder = stage(tmp_path / "build", "tensorrt", ())
    build(folder)
    (cache,) = full.iterdir()
    other = b"of another GPU"
    cache.write_bytes(b"ingot timing cache 1\n" + hashlib.sha256(other).digest() + other)
    assert "did not take the old one" in build(folder)["timing_cache"]
    assert cache.read_bytes().endswith(b"measured")


def test_a_cache_that_cannot_be_written_does_not_fail_the_build(full: Path, tmp_path: Path) -> None:
    full.parent.mkdir()
    full.write_text("a file where the folder should be")
    assert build(stage(tmp_path / "build", "tensorrt", ()))["timing_cache"] == "new"


def test_full_tensorrt_builds_one_plan_for_several_architectures_by_compatibility(full: Path, tmp_path: Path) -> None:
    folder = stage(tmp_path / "build", "tensorrt", ("sm_80", "sm_90"))
    build(folder)
    assert "compatible AMPERE_PLUS" in (folder / OUTPUT).read_text()


def test_full_tensorrt_asks_for_the_gpu_of_a_plugin_where_it_builds_and_not_where_a_network_is_evaluated(
    full: Path, tmp_path: Path, seed: int
) -> None:
    if this_driver().gpus:
        pytest.skip("here is a GPU, and the plugin of the fake would run on it")
    fake = tmp_path / "site" / "tensorrt" / "__init__.py"
    cure = "from ingot.backends.tensorrt.plugin.preload import preload\npreload(FLAVOURS['tensorrt-rtx'])\n"
    fake.write_text(f"{fake.read_text()}\nfrom ingot.backends.tensorrt.flavours import FLAVOURS\n{cure}")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 64])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 64]) for name in "ys"]
    node = helper.make_node("skip_norm", ["x", "x", "w"], ["y", "s"], domain="ingot")
    for key, value in {"inputs": "x,residual,weight", "plugin_version": "1", "plugin_namespace": "ingot"}.items():
        node.attribute.append(helper.make_attribute(key, value))
    graph = helper.make_graph([node], "g", [x], outputs, [numpy_helper.from_array(np.ones(64, np.float32), "w")])
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("ingot", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    plugins = [{"name": "skip_norm", "version": 1, "kernels": []}]
    folder = write(tmp_path / "build", model, "tensorrt", (), declared=None, profile={}, plugins=plugins)
    (item,) = build(folder)["error"]["items"]
    assert "RequirementError" in item["message"]
    given = np.random.default_rng(seed).standard_normal((2, 3, 64)).astype(np.float32)
    with closing(NetworkSession(folder, "tensorrt", ["x"], ["s"])) as session:
        (total,) = session.run([given])
    assert np.array_equal(total, given + given)


def test_a_package_that_is_not_there_is_told_with_what_to_install(tmp_path: Path) -> None:
    folder = stage(tmp_path / "build", "tensorrt")
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("full TensorRT is installed here")
    outcome = run(CHILD, [str(folder)], output=folder / OUTPUT, limits=Limits(60))
    error = failure(FLAVOURS["tensorrt"], outcome, folder, {})
    assert "ModuleNotFoundError" in error.what
    assert "ingot-compiler[tensorrt]" in str(error.fix)


def test_a_parser_that_made_another_interface_of_the_graph_is_caught(tmp_path: Path) -> None:
    declared = {"inputs": [["x", "float16", ["B", 8]]], "outputs": [["y", "float32", ["B", 8]]], "unread": []}
    folder = stage(tmp_path / "build", declared=declared)
    error = build(folder)["error"]
    assert error["kind"] == "audit"
    assert "the input x float32, declared is float16" in error["items"][0]["message"]
    assert not (folder / PLAN).exists()


def test_an_input_that_gives_sizes_is_built_for_the_values_that_it_may_have(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    sizes = helper.make_tensor_value_info("s", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Expand", ["x", "s"], ["y"], name="e")], "g", [x, sizes], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    profile = {"x": {"min": [1, 8], "opt": [1, 8], "max": [1, 8]}}
    folder = write(tmp_path / "bounded", model, "tensorrt-rtx", ("sm_89",), declared=None, profile=profile)
    error = build(folder)["error"]
    assert error["items"] == [{"message": "input s gives sizes, and has no bounds"}]
    more = {"declared": None, "profile": profile, "domains": {"s": [1, 16]}}
    assert "error" not in build(write(tmp_path / "bounded", model, "tensorrt-rtx", ("sm_89",), **more))


def test_layers_name_the_nodes_and_lines_that_they_came_from(tmp_path: Path) -> None:
    folder = stage(tmp_path / "build")
    assert build(folder)["layers"] == len(json.loads((folder / LAYERS).read_text()))
    (product,) = [layer for layer in json.loads((folder / LAYERS).read_text()) if layer["kind"] == "MATRIX_MULTIPLY"]
    assert product["nodes"] == ["product"]
    assert product["where"] == ["MatMul -> y (net.py:3)"]
    assert product["outputs"] == [{"name": "y", "dtype": "FLOAT", "shape": [-1, 8]}]
    assert (folder / LOG).read_text().startswith(("I ", "W "))


def test_a_fault_of_our_own_is_told_as_one(tmp_path: Path) -> None:
    folder = stage(tmp_path / "build", profile={"x": {"min": [1, 8]}})
    outcome = run(CHILD, [str(folder)], output=folder / OUTPUT, limits=Limits(60))
    error = failure(FLAVOURS["tensorrt-rtx"], outcome, folder, {})
    assert "failed in Python" in error.what
    assert "KeyError: 'opt'" in error.what


def test_the_child_imports_neither_torch_nor_onnx() -> None:
    code = f"import sys, {CHILD}; print([n for n in ('torch', 'onnx', 'onnx_ir', 'click') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


USED = [
    "Builder",
    "create_network",
    "create_builder_config",
    "create_optimization_profile",
    "STRONGLY_TYPED",
    "OnnxParser",
    "load_model_proto",
    "load_initializer",
    "parse_model_proto",
    "num_errors",
    "get_error",
    "node_name",
    "node_operator",
    "clear_flag",
    "TF32",
    "profiling_verbosity",
    "DETAILED",
    "hardware_compatibility_level",
    "AMPERE_PLUS",
    "plugins_to_serialize",
    "add_optimization_profile",
    "set_shape",
    "set_shape_input",
    "is_shape_tensor",
    "IStreamWriter",
    "build_serialized_network_to_stream",
    "create_timing_cache",
    "set_timing_cache",
    "get_timing_cache",
    "ILogger",
    "metadata",
    "num_layers",
    "get_layer",
]


def test_full_tensorrts_own_bindings_have_every_name_that_is_used() -> None:
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("the bindings of full TensorRT (tensorrt_cu13_bindings) are not installed")
    (library,) = Path(found.submodule_search_locations[0]).glob("tensorrt*.so")
    data = library.read_bytes()
    # Without what is in front: a linker keeps one copy of texts that end alike.
    assert [name for name in USED if name.encode() + b"\0" not in data] == []
