"""What a build gives: a real plan, layers with the user's lines, proofs that hold; and refusals before it starts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest
import torch

import ingot
from ingot.backends.contract import BuildOptions, UnprovenError
from ingot.backends.targets import builder
from ingot.backends.tensorrt import build as build_module
from ingot.backends.tensorrt.build import TensorRtBuilder
from ingot.backends.tensorrt.child.parse import GRAPH
from ingot.backends.tensorrt.child.process import Outcome
from ingot.backends.tensorrt.child.serve import NetworkSession
from ingot.backends.tensorrt.flavours import FLAVOURS, PRECISIONS
from ingot.backends.tensorrt.stage import stage
from ingot.cuda_driver import Driver, Gpu
from ingot.errors import BuildError, EngineError, UnsupportedOperatorError, UsageError, VerificationError
from ingot.ir.provenance import MODULE, SOURCE
from ingot.signature import Dim, Signature, Tensor

pytest.importorskip("tensorrt_rtx", reason="plans are built for real")

RTX = cast(TensorRtBuilder, builder("tensorrt-rtx"))

NAMES = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}


def network(dtype: ir.DataType = ir.DataType.FLOAT16, width: int = 64, seed: int = 0) -> ir.Model:
    """relu(x @ w) @ w, with a module and a line on every node."""
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 23]> net (float[B, {width}] x) => (float[B, {width}] y)
        <float[1] w = {{0}}> {{
        a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, w) }}"""
    )
    for index, node in enumerate(model.graph):
        node.metadata_props.update({MODULE: f"layer.{index}", SOURCE: f"net.py:{10 + index}: code"})
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        value.dtype, value.shape = dtype, ir.Shape(["B", width])
    weight = np.random.default_rng(seed).standard_normal((width, width)) / width**0.5
    tensor = ir.tensor(weight.astype(np.float32).astype(dtype.numpy()), dtype=dtype, name="w")
    value = model.graph.initializers["w"]
    value.const_value, value.shape, value.dtype = tensor, ir.Shape((width, width)), dtype
    return model


def options(model: ir.Model, folder: Path, *archs: str, most: int | None = 16, **more: Any) -> BuildOptions:
    def described(value: ir.Value) -> Tensor:
        assert value.shape is not None
        assert value.dtype is not None
        return Tensor(value.name or "", NAMES[value.dtype.name], ("B", int(str(value.shape[1]))))

    signature = Signature(
        tuple(map(described, model.graph.inputs)),
        tuple(map(described, model.graph.outputs)),
        (Dim("B", 1, most),),
        {},
        {"tuple": []},
    )
    folder.mkdir(exist_ok=True)
    return BuildOptions(threads=1, folder=folder, signature=signature, sizes={"B": 4}, archs=archs, **more)


def written(part: Any) -> bytes:
    return b"".join(bytes(chunk) for chunk in part.chunks())


def test_one_plan_for_several_architectures_with_layers_and_proofs_that_hold(tmp_path: Path, seed: int) -> None:
    model = network(seed=seed)
    told: list[str] = []
    built = RTX.build(model, options(model, tmp_path, "sm_89", "sm_120", progress=told.append))
    assert built.target.name == "tensorrt-rtx"
    assert built.target.needs["gpu"] == "sm_89,sm_120"
    assert built.target.needs["tensorrt-rtx"].startswith("==")
    profiles = {"x": [[1, 64], [4, 64], [16, 64]]}
    assert built.target.options == {"profiles": profiles, "plugins": [], "unread": [], "proven": False}
    parts = {part.name: part for part in built.parts}
    assert set(parts) == set(built.target.members.values())
    assert parts["tensorrt-rtx/plan.bin"].size_bytes > 10_000
    layers = json.loads(written(parts["tensorrt-rtx/layers.json"]))
    products = [layer for layer in layers if layer["kind"] == "MATRIX_MULTIPLY"]
    assert ["net.py:10: code" in layer["where"][0] for layer in products] == [True, False]
    assert built.notes["precisions"]["HALF"] >= 3
    assert built.notes["log"]["errors"] == []
    assert told == ["tensorrt-rtx builds for sm_89, sm_120"]
    x = np.random.default_rng(seed).standard_normal((3, 64)).astype(np.float16)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    w = weight.numpy().astype(np.float32)
    expected = np.maximum(x.astype(np.float32) @ w, 0) @ w
    assert len(built.proofs) == 2
    for proof in built.proofs:
        session = proof.open()
        (got,) = session.run([x])
        session.close()
        assert got.dtype == np.float16
        assert np.abs(got.astype(np.float32) - expected).max() < 0.01 * np.abs(expected).max(), proof.what


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path, seed: int) -> None:
    members = []
    for name in ("first", "second"):
        model = network(seed=seed)
        built = RTX.build(model, options(model, tmp_path / name, "sm_89"))
        members.append({part.name: written(part) for part in built.parts})
    assert members[0] == members[1]


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = network()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    RTX.prepare(model, options(model, tmp_path, "sm_89"))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("dtype", "archs", "lacks", "says"),
    [
        (ir.DataType.BFLOAT16, ("sm_75", "sm_89"), "sm_75", "sm_75 has f32, f16, int8"),
        (ir.DataType.FLOAT, ("sm_75",), "sm_75", "it has f16 matrix products"),
    ],
)
def test_a_precision_that_an_architecture_lacks_is_refused_with_what_it_has(
    dtype: ir.DataType,
    archs: tuple[str, ...],
    lacks: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_module, "run", lambda *arguments, **more: pytest.fail("the builder was started"))
    model = network(dtype)
    with pytest.raises(UnsupportedOperatorError) as caught:
        RTX.build(model, options(model, tmp_path, *archs))
    text = str(caught.value)
    assert lacks in text
    assert says in text
    assert "in layer.0 (net.py:10: code)" in text
    assert "in layer.2 (net.py:12: code)" in text
    assert "sm_89 has" not in text


def test_the_table_of_precisions_names_every_architecture() -> None:
    assert {arch for flavour in FLAVOURS.values() for arch in flavour.archs} == set(PRECISIONS)


def test_an_operator_that_the_target_lacks_is_refused_with_the_users_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "run", lambda *arguments, **more: pytest.fail("the builder was started"))
    model = network()
    node = model.graph[1]
    node.op_type, node.domain = "Bernoulli", ""
    with pytest.raises(UnsupportedOperatorError, match=r"Bernoulli -> b in layer.1 \(net.py:11: code\)"):
        RTX.build(model, options(model, tmp_path, "sm_89"))


def test_without_a_gpu_and_without_an_architecture_the_list_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "this_driver", lambda: Driver(None, (), "no NVIDIA driver"))
    model = network()
    with pytest.raises(UsageError, match="this machine has no GPU") as caught:
        RTX.build(model, options(model, tmp_path))
    assert "sm_75, sm_80, sm_86, sm_89, sm_120, sm_121" in str(caught.value.fix)


def test_without_an_architecture_the_machines_own_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "a card", "sm_86", 1 << 30)
    monkeypatch.setattr(build_module, "this_driver", lambda: Driver("13.0", (gpu,), None))
    model = network()
    assert RTX.prepare(model, options(model, tmp_path)).spec["archs"] == ["sm_86"]


def test_full_tensorrt_without_itself_or_its_gpu_says_how_to_emit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = TensorRtBuilder(FLAVOURS["tensorrt"])
    model = network()
    monkeypatch.setattr(build_module, "installed_version", lambda name: None)
    with pytest.raises(BuildError, match="is not installed here") as caught:
        full.build(model, options(model, tmp_path))
    assert "--emit DIR" in str(caught.value.fix)
    monkeypatch.setattr(build_module, "installed_version", lambda name: "11.4.0.106")
    monkeypatch.setattr(build_module, "this_driver", lambda: Driver(None, (), "no NVIDIA driver"))
    with pytest.raises(BuildError, match="here is none"):
        full.build(model, options(model, tmp_path))
    gpu = Gpu(0, "a card", "sm_86", 1 << 30)
    monkeypatch.setattr(build_module, "this_driver", lambda: Driver("13.0", (gpu,), None))
    with pytest.raises(BuildError, match=r"which is a card \(sm_86\)"):
        full.build(model, options(model, tmp_path, "sm_90"))


def test_a_dim_without_an_upper_bound_is_told_in_the_notes(tmp_path: Path) -> None:
    model = network()
    prepared = RTX.prepare(model, options(model, tmp_path, "sm_89", most=None))
    assert prepared.notes == ["B has no upper bound: the engine takes up to 32; --shape INPUT=B:1..N"]


def served(folder: Path) -> NetworkSession:
    model = network()
    prepared = RTX.prepare(model, options(model, folder, "sm_89"))
    return NetworkSession(prepared.staged.folder, "tensorrt-rtx", ["x"], ["y"])


def test_a_network_that_does_not_compute_is_an_engines_error_and_serves_on(tmp_path: Path) -> None:
    """Verification takes it for what it is: wrong, not merely unproven."""
    with closing(served(tmp_path)) as session:
        with pytest.raises(EngineError, match=r"does not compute: layer .*2x3 and 64x64"):
            session.run([np.zeros((2, 3), np.float16)])
        with pytest.raises(EngineError, match="dtype float32 was given"):
            session.run([np.zeros((2, 64), np.float32)])
        assert session.run([np.zeros((2, 64), np.float16)])[0].shape == (2, 64)


def test_a_server_that_does_not_answer_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(served(tmp_path)) as session:
        session._limit_seconds = 0.5
        os.kill(session._process.pid, signal.SIGSTOP)
        with pytest.raises(BuildError, match=r"took longer than .* and was stopped") as caught:
            session.run([np.zeros((2, 64), np.float16)])
        assert "INGOT_BUILD_TIMEOUT_S=" in str(caught.value.fix)
        assert session._process.poll() is not None


def test_a_server_that_died_is_a_build_error(tmp_path: Path) -> None:
    with closing(served(tmp_path)) as session:
        session._process.kill()
        with pytest.raises(BuildError, match=r"evaluates the parser's network was killed by the system \(SIGKILL\)"):
            session.run([np.zeros((2, 64), np.float16)])


def test_a_parser_that_makes_another_network_of_the_graph_fails_the_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rows whatever the batch: the graph on ONNX Runtime is right, what the parser read does not compute."""

    def misread(folder: Path, *more: Any) -> NetworkSession:
        wrong = ir.load(folder / GRAPH)
        last = wrong.graph[-1]
        rows = ir.Value(name="rows", const_value=ir.tensor(np.array([4, 64]), name="rows"))
        wrong.graph.initializers["rows"] = rows
        fixed = ir.node("Reshape", [last.inputs[0], rows])
        last.replace_input_with(0, fixed.outputs[0])
        wrong.graph.insert_before(last, fixed)
        (folder / GRAPH).write_bytes(ir.to_proto(wrong).SerializeToString())
        return NetworkSession(folder, *more)

    monkeypatch.setattr(build_module, "NetworkSession", misread)
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    rows = {"input": {0: torch.export.Dim("B", min=2, max=8)}}
    with pytest.raises(VerificationError, match=r"network that tensorrt-rtx's parser made.*does not compute: layer"):
        ingot.compile(model, torch.randn(4, 64), target="tensorrt-rtx", arch="sm_89", dynamic_shapes=rows)


class Picky(torch.nn.Module):
    def forward(self, x: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return x.sin()


def test_an_input_that_the_model_does_not_read_is_listed_as_unread() -> None:
    with ingot.compile(Picky(), (torch.randn(2, 16), torch.randn(2, 5)), target="tensorrt-rtx", arch="sm_89") as engine:
        (target,) = engine.header.targets
        assert target.options["unread"] == ["unused"]
        assert [tensor.name for tensor in engine.header.signature.inputs] == ["x", "unused"]


def test_a_kind_of_layer_that_is_not_evaluated_is_unproven_and_not_wrong(tmp_path: Path) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]> net (float[2, 4] x) => (float[2, 4] y)
        { r = RandomUniformLike (x)  y = Add (x, r) }"""
    )
    staged = stage(model, tmp_path / "staged")
    staged.write_spec(flavour="tensorrt-rtx", plugins=[])
    with pytest.raises(UnprovenError, match="a fill by RANDOM_UNIFORM is random"):
        NetworkSession(staged.folder, "tensorrt-rtx", ["x"], ["y"])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    def set_outcome(outcome: Outcome) -> None:
        monkeypatch.setattr(build_module, "run", lambda *arguments, **more: outcome)

    return set_outcome


def test_a_child_that_dies_without_a_result_is_a_build_error(
    failing: Callable[[Outcome], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_BUILD_REDUCE_S", "0")
    failing(Outcome(-9, None, 1.0, 10**9, 10**10))
    model = network()
    with pytest.raises(BuildError, match="killed by the system"):
        RTX.build(model, options(model, tmp_path, "sm_89"))


@pytest.mark.parametrize("stored", ["int4", "float8e4m3fn", "int8"])
def test_weights_of_few_bits_reach_the_parser_as_they_are(stored: str, tmp_path: Path, seed: int) -> None:
    """Larger than what stays in the graph; the parser's own network computes with every one of them."""
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    width, half = 64, TensorProto.FLOAT16
    kinds = {"int4": TensorProto.INT4, "float8e4m3fn": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}
    steps = rng.integers(-7, 8, (width, width))
    weight = helper.make_tensor("w", kinds[stored], steps.shape, steps.astype(np.float32).ravel().tolist())
    if stored != "float8e4m3fn":
        weight = helper.make_tensor("w", kinds[stored], steps.shape, steps.ravel().tolist())
    blocks = stored == "int4"
    shape = (width // 32, width) if blocks else (width,)
    scales = rng.uniform(0.5, 1, shape).astype(np.float16)
    where: dict[str, int] = {"axis": 0, "block_size": 32} if blocks else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], **where),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    scale = onnx.numpy_helper.from_array(scales, "s")
    io = [helper.make_tensor_value_info(name, half, ["B", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", io[:1], io[1:], [weight, scale])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    built = RTX.build(model, options(model, tmp_path, "sm_89"))
    x = rng.standard_normal((3, width)).astype(np.float16)
    wide = np.repeat(scales, 32, axis=0) if blocks else scales
    expected = x.astype(np.float32) @ (steps * wide.astype(np.float32))
    session = built.proofs[1].open()
    (got,) = session.run([x])
    session.close()
    assert np.abs(got.astype(np.float32) - expected).max() < 0.01 * np.abs(expected).max()
