"""From a plan in a file to a session: what is checked first, what TensorRT's refusal says, and what is never let in.

TensorRT and the driver are stand-ins (tests/fakes); the last tests ask the real package.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu, plugged_in
from fake_tensorrt import (
    AFFINE,
    AFFINE_INPUTS,
    AFFINE_OUTPUTS,
    AFFINE_PLAN,
    NEEDS,
    FakeTensorRt,
    plan_bytes,
    write_engine,
)

from ingot.backends.tensorrt import lane, load, messages, session
from ingot.backends.tensorrt_rtx.load import LOADER
from ingot.device.array import DeviceArray
from ingot.device.context import open_cuda
from ingot.errors import EngineError, FormatError, InputError, RequirementError, UsageError
from ingot.file.header import Target
from ingot.runtime.open import open_engine
from ingot.signature import Signature


def target(needs: Mapping[str, str] = NEEDS, **options: Any) -> Target:
    return Target("tensorrt-rtx", {}, needs, options)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(plan: bytes = AFFINE_PLAN, aim: Target | None = None, signature: Signature = AFFINE) -> Path:
        return write_engine(tmp_path / "e.ingot", signature, [(aim or target(), plan)])

    return write


def test_a_plan_runs(trt: FakeTensorRt, gpu: FakeGpu, write: Callable[..., Path], seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    with open_engine(write(), threads=1) as engine:
        y, s = engine(x).values()
        assert engine.target == "tensorrt-rtx"
    assert np.array_equal(y, x * 2 + 1)
    assert np.array_equal(s, x.sum(-1))
    assert (gpu.used_bytes, gpu.streams, gpu.events) == (0, 0, 0)
    assert gpu.current == []


@pytest.mark.parametrize(
    ("needs", "said", "fix"),
    [
        ({"gpu": "sm_120"}, "needs a GPU of sm_120, found Fake GPU (sm_89)", "--arch sm_120,sm_89"),
        ({"tensorrt-rtx": "==1.6.0"}, "needs tensorrt-rtx ==1.6.0", "pip install 'tensorrt-rtx==1.6.0'"),
        ({"cuda": ">=13.1"}, "needs a driver for CUDA >=13.1, found one for CUDA 13.0", "newer NVIDIA driver"),
        ({"moonlight": "1"}, "needs moonlight 1", "pip install --upgrade ingot-compiler"),
    ],
)
def test_another_machine_is_named_with_what_to_type(
    trt: FakeTensorRt, write: Callable[..., Path], needs: dict[str, str], said: str, fix: str
) -> None:
    with pytest.raises(RequirementError) as caught:
        open_engine(write(aim=target({**NEEDS, **needs})))
    assert said in caught.value.what
    assert fix in (caught.value.fix or "")
    assert trt.seen == []


def test_of_two_gpus_the_one_that_fits_runs_it(
    trt: FakeTensorRt, gpu: FakeGpu, write: Callable[..., Path], seed: int
) -> None:
    gpu.devices, gpu.archs = 2, {0: (7, 5)}
    x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    with open_engine(write()) as engine:
        y = engine.run_device({"x": DeviceArray(open_cuda(1), (3, 4), "float32", 0)})["y"]
        assert y.device == 1
        assert np.array_equal(engine(x).y, x * 2 + 1)
        with pytest.raises(InputError, match="'x' is on GPU 0, and the engine is on GPU 1") as caught:
            engine(DeviceArray(open_cuda(0), (3, 4), "float32", 0))
        assert (caught.value.fix or "").startswith("x.to('cuda:1')")


def test_the_loader_itself_refuses_what_check_would(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    from ingot.file.read import EngineFile

    with EngineFile.open(write()) as file, pytest.raises(RequirementError, match="sm_75"):
        LOADER.load(file, file.header.targets[0]._replace(needs={"gpu": "sm_75"}), threads=1)


def test_no_driver_is_a_requirement(write: Callable[..., Path]) -> None:
    with plugged_in(None), pytest.raises(RequirementError, match="found no NVIDIA driver"):
        open_engine(write())


def test_edited_plans_never_reach_tensorrt(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    path = write()
    content = bytearray(path.read_bytes())
    content[content.index(b'"affine"') + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"member 'tensorrt-rtx/plan\.bin' is not what the header says"):
        open_engine(path)
    assert trt.seen == []


def test_a_plan_edited_after_the_file_was_opened_is_noticed(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    from ingot.file.read import EngineFile

    path = write()
    with EngineFile.open(path) as file:
        content = path.read_bytes()
        with path.open("r+b") as stream:
            stream.seek(content.index(b'"affine"') + 1)
            stream.write(b"A")
        with pytest.raises(FormatError, match="sha256 differs"):
            LOADER.load(file, file.header.targets[0], threads=1)
    assert trt.seen == []


def test_code_in_the_file_must_be_allowed(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    plan = plan_bytes("affine", AFFINE_INPUTS, AFFINE_OUTPUTS, code=True)
    path = write(plan, target({**NEEDS, "code": "libplugin.so"}))
    with pytest.raises(RequirementError, match="allow_code=False") as caught:
        open_engine(path)
    assert "allow_code=True" in (caught.value.fix or "")
    assert trt.seen == []
    with open_engine(path, allow_code=True) as engine:
        assert engine.target == "tensorrt-rtx"


def test_code_that_the_header_hides_is_refused_by_tensorrt(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    plan = plan_bytes("affine", AFFINE_INPUTS, AFFINE_OUTPUTS, code=True)
    with pytest.raises(EngineError, match="refuses the plan: the plan embeds host code"):
        open_engine(write(plan), allow_code=True)


def test_tensorrts_reason_is_told(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(write(b"no plan"))
    assert caught.value.what == "tensorrt-rtx refuses the plan: Serialization (magic tag does not match)"
    assert "Fake GPU (sm_89)" in (caught.value.where or "")
    assert "ingot compile MODEL --target tensorrt-rtx --arch sm_89" in (caught.value.fix or "")
    trt.refuse["deserialize"] = "Error Code 9: compute capability mismatch"
    with pytest.raises(EngineError, match=r"compute capability mismatch \(not built for this GPU\)"):
        open_engine(write())


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (plan_bytes("affine", {"z": AFFINE_INPUTS["x"]}, AFFINE_OUTPUTS), "inputs are z, the header"),
        (plan_bytes("affine", AFFINE_INPUTS, {"y": "float32"}), "outputs are y, the header declares y, s"),
        (
            plan_bytes("affine", AFFINE_INPUTS, {"y": "float16", "s": "float32"}),
            "'y' is float16, the header declares float32",
        ),
    ],
)
def test_a_plan_that_is_not_what_the_header_says(
    trt: FakeTensorRt, write: Callable[..., Path], plan: bytes, said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        open_engine(write(plan))


def test_a_header_without_a_plan_or_with_strange_plugins(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    from ingot.file.read import EngineFile

    with EngineFile.open(write()) as file:
        aim = file.header.targets[0]
        with pytest.raises(FormatError, match="plugins are 'all', and must be a list"):
            LOADER.load(file, aim._replace(options={"plugins": "all"}), threads=1)
        with pytest.raises(FormatError, match="has no plan"):
            LOADER.load(file, aim._replace(members={}), threads=1)


def test_a_plugin_that_is_not_there_is_named(trt: FakeTensorRt, write: Callable[..., Path]) -> None:
    with pytest.raises(EngineError, match="warp_drive"):
        open_engine(write(aim=target(plugins=[{"name": "warp_drive", "version": 1}])))
    assert trt.seen == []


def test_a_package_that_does_not_import_is_a_requirement(
    gpu: FakeGpu, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the version that is installed is what the plan asks for")

    def fail(name: str) -> None:
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(load, "import_module", fail)
    with pytest.raises(RequirementError, match="tensorrt-rtx does not import: libtensorrt_rtx") as caught:
        open_engine(write())
    assert "pip install --force-reinstall 'tensorrt-rtx>=1.7,<1.8'" in (caught.value.fix or "")


def test_what_each_target_needs() -> None:
    assert dict(LOADER.build_needs) == {"tensorrt-rtx": ">=1.7,<1.8"}
    assert dict(load.LOADER.build_needs) == {"tensorrt": ">=11.4,<12", "cuda": ">=13.0", "gpu": ""}
    assert dict(load.LOADER.needs) == dict(load.LOADER.build_needs)
    assert set(LOADER.needs) == {"tensorrt-rtx", "cuda", "gpu"}


PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["torch", "onnx", "onnx_ir", "onnxscript", "click", "transformers", "onnxruntime"]))
import numpy, ingot
from fake_gpu import FakeGpu, plugged_in
from fake_tensorrt import FakeTensorRt, installed
gpu = FakeGpu()
with plugged_in(gpu), installed(FakeTensorRt(gpu)), ingot.load(sys.argv[1]) as engine:
    x = numpy.ones((2, 4), "float32")
    y, s = engine(x).values()
    lent = engine(engine.run_device({"x": engine.run_device({"x": Lent(x)})["y"]})["y"])
    print(engine.target, y.sum(), lent["y"].numpy().sum())
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("ingot.")}))
"""

LENT = """
class Lent:
    def __init__(self, x):
        from ingot.device.context import open_cuda
        cuda = open_cuda()
        self.pointer = cuda.allocate(x.nbytes)
        cuda.to_device(self.pointer, x.ctypes.data, x.nbytes, 0)
        self.__cuda_array_interface__ = dict(
            shape=x.shape, typestr="<f4", data=(self.pointer, False), version=3, stream=1)
"""


def test_production_needs_no_compiler_and_no_torch(write: Callable[..., Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the version that is installed is what the plan asks for")
    command = [sys.executable, "-c", LENT + PROGRAM, str(write())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, loaded = done.stdout.splitlines()
    assert first == "tensorrt-rtx 24.0 120.0"
    ours = {"api", "backends", "cuda_driver", "device", "errors", "file", "installed", "machine", "models", "plugins"}
    assert set(loaded.split()) <= ours | {"runtime", "signature", "version"}


OWNERS = {
    "trt": "",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "plan.engine": "ICudaEngine",
    "context": "IExecutionContext",
    "lane.context": "IExecutionContext",
}


def used_of_tensorrt() -> set[tuple[str, str, int | None]]:
    """(class, member, number of arguments if it is called) of TensorRT's own that the production side uses."""
    found = set()
    for module in (load, session, lane, messages):
        tree = ast.parse(inspect.getsource(module))
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (owner := ast.unparse(node.value)) in OWNERS:
                call = calls.get(id(node))
                found.add((OWNERS[owner], node.attr, None if call is None else len(call.args)))
    return found


def test_what_is_used_of_tensorrt_is_there() -> None:
    """Names and numbers of arguments, in the real package."""
    real = pytest.importorskip("tensorrt_rtx")
    used = used_of_tensorrt()
    assert {name for _, name, _ in used} >= {"deserialize_cuda_engine", "execute_async_v3", "TensorIOMode"}
    for owner, name, count in used:
        holder = getattr(real, owner) if owner else real
        if name == "__name__":
            continue
        assert hasattr(holder, name), f"{owner}.{name}"
        if count is not None and owner:
            text = getattr(holder, name).__doc__
            overloads = re.findall(rf"{name}\(self: [^)]*?((?:, \w+: [^,)]*(?:\([^)]*\))?)*)\)", text)
            allowed = {(len(re.findall(r", \w+:", said)), said.count(" = ")) for said in overloads}
            assert any(most - optional <= count <= most for most, optional in allowed), (name, count, text)


def test_the_stand_in_has_nothing_that_tensorrt_has_not() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    for kind in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger"):
        ours = getattr(fake_tensorrt, kind)
        names = {name for name in vars(ours) if not name.startswith("_")}
        names |= set(re.findall(r"self\.([a-z]\w*)\b", inspect.getsource(ours)))
        assert [name for name in names if not hasattr(getattr(real, kind), name)] == []
    for kind in ("DataType", "TensorIOMode", "TensorLocation"):
        for name, value in getattr(fake_tensorrt, kind).__members__.items():
            assert int(getattr(getattr(real, kind), name)) == int(value)
    assert set(load.DTYPES) <= set(real.DataType.__members__)
    for bit, text in load._INVALID.items():
        assert bit in {int(flag) for flag in real.EngineInvalidityDiagnostics.__members__.values()}, text


def test_the_real_package_gives_a_reason_where_there_is_no_gpu(gpu: FakeGpu, write: Callable[..., Path]) -> None:
    """A real plan, and the real TensorRT, which finds no driver beside our stand-in."""
    real = pytest.importorskip("tensorrt_rtx")
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver: TensorRT would open its GPU")
    with pytest.raises(EngineError, match=r"tensorrt-rtx refuses the plan: .*CUDA driver version is insufficient"):
        open_engine(write(real_plan(real)))
    with pytest.raises(EngineError, match=r"tensorrt-rtx refuses the plan: (?!it gives no reason)"):
        open_engine(write(b"no plan at all"))


def real_plan(trt: Any) -> bytes:
    class Silent(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            pass

    builder = trt.Builder(Silent())
    network = builder.create_network(0)
    layer = network.add_unary(network.add_input("x", trt.float32, (2, 4)), trt.UnaryOperation.EXP)
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return bytes(memoryview(builder.build_serialized_network(network, config)))


def test_other_targets_of_the_file_are_named(write: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="no target 'cpu'; it has tensorrt-rtx"):
        open_engine(write(), target="cpu")
