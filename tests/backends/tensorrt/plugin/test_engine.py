"""Real RTX engines with our plugin: parsed and built for four architectures in another process, fields in the plan."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

import ingot
from ingot.backends.tensorrt.load import check_options
from ingot.backends.tensorrt.plugin.fields import Fields
from ingot.backends.tensorrt.plugin.host import check
from ingot.backends.tensorrt.plugin.kernels import Kernels, read_kernels
from ingot.backends.tensorrt.plugin.parts import PluginParts, name_for_parser, plugin_parts
from ingot.errors import BuildError, UnsupportedOperatorError
from ingot.file.read import EngineFile
from ingot.frontend.export import export
from ingot.frontend.source import resolve
from ingot.passes.contract import run_passes
from ingot.pipeline import passes
from ingot.plugins.skip_norm import skip_norm
from ingot.plugins.skip_norm.declaration import SKIP_NORM

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is built for x86-64 and aarch64 Linux")

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_120")

HIDDEN = 64

BUILD = """
import json, sys
import tensorrt_rtx as trt
from ingot.backends.tensorrt.plugin import host as plugin_host
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.plugin.preload import preload

folder, archs, entries = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
preload(FLAVOURS["tensorrt-rtx"])
host = plugin_host.register(trt, entries)
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
parsed = parser.parse(open(folder + "/graph.onnx", "rb").read())
plan = None
if parsed:
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    tensor = network.get_input(0)
    hidden = tensor.shape[2]
    profile.set_shape(tensor.name, (1, 1, hidden), (2, 8, hidden), (4, 128, hidden))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(archs)
    for index, arch in enumerate(archs):
        config.set_compute_capability(getattr(trt.ComputeCapability, arch.replace("sm_", "SM")), index)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        open(folder + "/plan.bin", "wb").write(plan)
errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
plugins = [network.get_layer(index) for index in range(network.num_layers)]
plugins = [layer for layer in plugins if layer.type == trt.LayerType.PLUGIN_V3]
for layer in plugins:
    layer.__class__ = trt.IPluginV3Layer
inputs = [list(layer.plugin.inputs) for layer in plugins]
result = {"parsed": parsed, "errors": errors, "built": plan is not None, "problem": host.problem, "inputs": inputs}
print(json.dumps(result))
"""


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = torch.nn.Parameter(torch.rand(HIDDEN)), torch.nn.Parameter(torch.rand(HIDDEN))
        self.bias = torch.nn.Parameter(torch.randn(HIDDEN))
        self.mix = torch.nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = torch.nn.Linear(HIDDEN, 2 * HIDDEN), torch.nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, residual = skip_norm(self.mix(x), residual, self.first, epsilon=1e-5)
        return skip_norm(self.down(torch.relu(self.up(y))), residual, self.weight, self.bias, kind="layer")


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x
        for block in self.blocks:
            x, residual = block(x, residual)
        return x + residual


def traced(dtype: torch.dtype = torch.float16) -> ir.Model:
    source = resolve(Blocks().to(dtype).eval(), torch.randn(2, 5, HIDDEN).to(dtype))
    model = export(source, dynamic_shapes={"x": {0: "batch", 1: "sequence"}}).model
    run_passes(model, passes())
    return model


def build(model: ir.Model, entries: list[Any], folder: Path, edit: Callable[[ir.Model], None] | None = None) -> Any:
    """What the process says, or its exit code where it says nothing."""
    graph = model.clone()
    name_for_parser(graph)
    if edit is not None:
        edit(graph)
    graph.functions.clear()
    graph.ir_version = 11
    (folder / "graph.onnx").write_bytes(ir.to_proto(graph).SerializeToString())
    command = [sys.executable, "-c", BUILD, str(folder), ",".join(ARCHS), json.dumps(entries)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else done.returncode


def kept(plan: bytes) -> list[Mapping[str, Any]]:
    """The plugin fields in a plan, in its order."""
    found, start = [], plan.find(b'{"plugin":')
    while start >= 0:
        value, _ = json.JSONDecoder().raw_decode(plan[start : start + 4096].decode("latin-1"))
        found.append(value)
        start = plan.find(b'{"plugin":', start + 1)
    return found


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return traced()


@pytest.fixture(scope="module")
def made(model: ir.Model) -> PluginParts:
    return plugin_parts(model, ARCHS)


def test_a_real_engine_holds_the_plugins_fields(model: ir.Model, made: PluginParts, tmp_path: Path) -> None:
    result = build(model, made.entries, tmp_path)
    assert result["built"]
    assert result["problem"] is None
    assert result["inputs"] == [["x", "residual", "weight"], ["x", "residual", "weight", "bias"]] * 2
    found = kept((tmp_path / "plan.bin").read_bytes())
    # Each layer of each architecture or pair of them.
    assert len(found) >= 4
    assert len(found) % 4 == 0
    read = [Fields.from_bytes(json.dumps(value).encode(), SKIP_NORM) for value in found]
    assert {fields.kernel() for fields in read} == {"rms-f16-h64", "layer-bias-f16-h64"}
    kernels = Kernels(read_kernels(made.entries[0]))
    for fields in read:
        assert fields.kernels == kernels.digest
        kernels.check(fields.kernel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_other_dtypes_build_too(dtype: torch.dtype, tmp_path: Path) -> None:
    model = traced(dtype)
    result = build(model, plugin_parts(model, ARCHS).entries, tmp_path)
    assert result["built"]
    name = str(dtype).removeprefix("torch.")
    assert {value["dtype"] for value in kept((tmp_path / "plan.bin").read_bytes())} == {name}


def test_the_parts_are_a_kernel_for_each_use_and_architecture(made: PluginParts) -> None:
    expected = {
        f"plugins/skip_norm/{arch}/{key}.cubin" for arch in ARCHS for key in ("rms-f16-h64", "layer-bias-f16-h64")
    }
    assert {part.name for part in made.parts} == expected
    assert {kernel["member"] for kernel in made.entries[0]["kernels"]} == expected
    assert all(part.size_bytes == sum(len(chunk) for chunk in part.chunks()) for part in made.parts)


def test_parts_repeat(model: ir.Model, made: PluginParts) -> None:
    again = plugin_parts(model, ARCHS)
    assert again.entries == made.entries
    assert [b"".join(part.chunks()) for part in again.parts] == [b"".join(part.chunks()) for part in made.parts]


def edited_weight(graph: ir.Model) -> None:
    weight = graph.graph.initializers["blocks.0.first"]
    weight.const_value = ir.tensor(torch.ones(HIDDEN // 2).half().numpy(), name=weight.name)
    weight.shape = ir.Shape([HIDDEN // 2])


def edited_epsilon(graph: ir.Model) -> None:
    node = next(node for node in graph.graph if node.op_type == "skip_norm")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", -1.0)


def edited_kind(graph: ir.Model) -> None:
    node = next(node for node in graph.graph if node.op_type == "skip_norm")
    node.attributes["kind"] = ir.AttrString("kind", "batch")


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (edited_weight, "H is 64 in x and 32 in weight"),
        (edited_epsilon, "epsilon is -1.0; it is to be above 0"),
        (edited_kind, "kind is 'batch'; it is one of rms, layer"),
    ],
)
def test_what_does_not_fit_is_told_while_parsing(
    edit: Callable[[ir.Model], None], text: str, model: ir.Model, made: PluginParts, tmp_path: Path
) -> None:
    result = build(model, made.entries, tmp_path, edit)
    assert not result["parsed"]
    assert text in result["problem"]


def test_a_plugin_that_is_not_registered_or_of_another_version_fails_to_parse(
    model: ir.Model, made: PluginParts, tmp_path: Path
) -> None:
    def of_version_2(graph: ir.Model) -> None:
        for node in graph.graph:
            if node.op_type == "skip_norm":
                node.attributes["plugin_version"] = ir.AttrString("plugin_version", "2")

    for result in (build(model, [], tmp_path), build(model, made.entries, tmp_path, of_version_2)):
        assert not result["parsed"]
        assert "Plugin not found" in " ".join(result["errors"])


def test_kernels_that_the_file_lacks_are_told_while_building(
    model: ir.Model, made: PluginParts, tmp_path: Path
) -> None:
    kernels = [kernel for kernel in made.entries[0]["kernels"] if kernel["key"] != "rms-f16-h64"]
    result = build(model, [{**made.entries[0], "kernels": kernels}], tmp_path)
    # TensorRT goes on to a plan without the plugin's fields: whoever builds has to look at the problem.
    assert "no kernel rms-f16-h64; it has layer-bias-f16-h64" in result["problem"]


def test_a_hidden_size_that_is_not_known_is_refused_with_the_users_line() -> None:
    source = resolve(Loose().eval(), torch.randn(2, 5, HIDDEN))
    model = export(source, dynamic_shapes={"x": {0: "batch", 2: "hidden"}}).model
    with pytest.raises(UnsupportedOperatorError) as error:
        plugin_parts(model, ARCHS)
    assert "H of this skip_norm is not known when the engine is built" in str(error.value)
    assert "test_engine.py" in str(error.value)


class Loose(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return skip_norm(x, x, x[0, 0])[0]


def test_without_triton_the_error_says_what_to_install(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(BuildError, match="pip install 'triton"):
        plugin_parts(model, ARCHS)


def test_a_graph_without_plugins_brings_nothing() -> None:
    model = export(resolve(torch.nn.Linear(4, 4).eval(), torch.randn(2, 4))).model
    made = plugin_parts(model, ARCHS)
    assert (made.parts, made.entries) == ([], [])
    assert not name_for_parser(model)


def test_one_file_has_the_cpus_body_and_the_gpus_kernels(tmp_path: Path) -> None:
    path = tmp_path / "blocks.ingot"
    example = torch.randn(2, 5, HIDDEN)
    dynamic = {"x": {0: "batch", 1: "sequence"}}
    ingot.compile(
        Blocks(), example, dynamic_shapes=dynamic, target="cpu,tensorrt-rtx", arch="sm_89,sm_120", verify="quick"
    ).save(path)
    with EngineFile.open(path) as file:
        target = file.header.target("tensorrt-rtx")
        assert target is not None
        (entry,) = target.options["plugins"]
        plan = file.read(target.members["plan"])
        check_options(target, file.header.signature)
        check(target.options["plugins"], file.header.members)
        kernels = read_kernels(entry)
        assert {kernel.arch for kernel in kernels} == {"sm_89", "sm_120"}
        for kernel in kernels:
            assert hashlib.sha256(file.read(kernel.member)).hexdigest() == kernel.sha256
        assert {value["kernels"] for value in kept(plan)} == {Kernels(kernels).digest}
    with ingot.load(path) as engine:
        assert engine.target == "cpu"
