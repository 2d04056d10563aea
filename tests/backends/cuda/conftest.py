"""Stand-ins for a GPU and for ONNX Runtime's CUDA provider: memory is the host's, kernels are the CPU provider's.

What they cannot show is what a GPU computes. They hold the code to the interfaces: which options a session gets, whose
memory it reads and writes, in which order streams wait for each other, and what happens when something fails.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.backends import needs
from ingot.backends.contract import Builder, BuildOptions
from ingot.backends.cpu.build import BUILDER as CPU
from ingot.backends.cuda.build import BUILDER as CUDA
from ingot.backends.cuda.load import PROVIDER, _preload
from ingot.cuda_driver import Driver, Gpu
from ingot.device import context
from ingot.device.array import View
from ingot.file.header import Header
from ingot.file.write import Draft
from ingot.models.handmade import ENCODER, ENCODER_SIGNATURE, encoder_table
from ingot.signature import Signature
from ingot.version import __version__

Array = np.ndarray[Any, Any]


class StandInGpu:
    """What ingot.device.context.Cuda offers; `done` is what was asked of it, in order."""

    def __init__(self) -> None:
        self.gpu = Gpu(0, "Stand-in", "sm_89", 2**30)
        self.forked = False
        self.done: list[tuple[Any, ...]] = []
        self.held: dict[int, Any] = {}
        self._handles = iter(range(100, 10**6))

    def array(self, content: Array) -> View:
        """Memory "on the GPU" with this content."""
        pointer = self.allocate(content.nbytes)
        ctypes.memmove(pointer, content.ctypes.data, content.nbytes)
        return View(pointer, content.shape, content.dtype.name, 0, None, self.held[pointer])

    def allocate(self, size_bytes: int, stream: int | None = None) -> int:
        buffer = ctypes.create_string_buffer(max(1, size_bytes))
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, pointer: int, stream: int | None = None) -> None:
        del self.held[pointer]

    def read(self, pointer: int, shape: Sequence[int], dtype: str) -> Array:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(pointer, count), dtype).reshape(shape).copy()

    def to_host(self, host_address: int, pointer: int, size_bytes: int, stream: int) -> None:
        self.done.append(("to_host", stream))
        ctypes.memmove(host_address, pointer, size_bytes)

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        self.done.append(("copy", size_bytes, stream))
        ctypes.memmove(destination, source, size_bytes)

    def device_of(self, pointer: int) -> int | None:
        return 0 if pointer in self.held else None

    def create_stream(self) -> int:
        return self._remember("create_stream")

    def create_event(self) -> int:
        return next(self._handles)

    def destroy_event(self, event: int) -> None:
        pass

    def destroy_stream(self, stream: int) -> None:
        self.done.append(("destroy_stream", stream))

    def record(self, event: int, stream: int) -> None:
        self.done.append(("record", event, stream))

    def wait(self, stream: int, event: int) -> None:
        self.done.append(("wait", stream, event))

    def synchronize(self, stream: int | None = None) -> None:
        self.done.append(("synchronize", stream))

    def _remember(self, what: str) -> int:
        handle = next(self._handles)
        self.done.append((what, handle))
        return handle

    def follows(self) -> list[tuple[int, int]]:
        """(stream, the one that it was told to wait for), in order; and ("run",) where the graph ran."""
        recorded = {step[1]: step[2] for step in self.done if step[0] == "record"}
        return [(step[1], recorded[step[2]]) for step in self.done if step[0] == "wait"]


class StandInBinding:
    """ONNX Runtime's IOBinding, with the host in the place of the GPU."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def bind_input(self, name: str, device: str, *more: Any) -> None:
        assert device in ("cuda", "cpu")
        self.inner.bind_input(name, "cpu", *more)

    def bind_output(self, name: str, device: str, *more: Any) -> None:
        assert device == "cuda"
        self.inner.bind_output(name, "cpu", *more)

    def get_outputs(self) -> Any:
        return self.inner.get_outputs()


class StandInRuntime(types.SimpleNamespace):
    """The module onnxruntime with a CUDA provider. `on_processor`, `starts` and `error` say how it behaves."""

    def __init__(self, gpu: StandInGpu) -> None:
        super().__init__(**{name: getattr(onnxruntime, name) for name in ("capi", "SessionOptions", "RunOptions")})
        self.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
        self.__version__ = onnxruntime.__version__
        self.gpu = gpu
        self.starts = True
        self.on_processor: list[tuple[str, str]] = []
        self.error: str | None = None
        self.run_error: str | None = None
        self.printed = ""
        self.providers: list[Any] = []
        self.config: dict[str, str] = {}

    def __hash__(self) -> int:
        return id(self)

    def preload_dlls(self) -> None:
        if self.printed:
            print(self.printed)

    def InferenceSession(self, graph: bytes, options: Any, *, providers: list[Any], **more: Any) -> Any:
        self.providers = providers
        self.config = {"record": options.get_session_config_entry("session.record_ep_graph_assignment_info")}
        if self.error:
            raise RuntimeError(self.error)
        return StandInSession(self, onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"], **more))


class StandInSession:
    def __init__(self, runtime: StandInRuntime, inner: Any) -> None:
        self.runtime, self.inner = runtime, inner
        self.get_inputs, self.get_outputs = inner.get_inputs, inner.get_outputs

    def get_providers(self) -> list[str]:
        return [*([PROVIDER] if self.runtime.starts else []), "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [types.SimpleNamespace(op_type=kind, name=name) for kind, name in self.runtime.on_processor]
        return [types.SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)]

    def io_binding(self) -> StandInBinding:
        return StandInBinding(self.inner.io_binding())

    def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
        self._fail()
        return self.inner.run(outputs, feeds, options)

    def run_with_iobinding(self, binding: StandInBinding, options: Any) -> None:
        self._fail()
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.runtime.gpu.done.append(("run",))
        self.inner.run_with_iobinding(binding.inner)

    def _fail(self) -> None:
        if self.runtime.run_error:
            raise RuntimeError(self.runtime.run_error)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StandInGpu:
    """A machine with a GPU, its driver and onnxruntime-gpu, as far as `ingot check` can see."""
    stand_in = StandInGpu()
    driver = Driver("13.1", (stand_in.gpu,), None)
    monkeypatch.setattr("ingot.cuda_driver.this_driver", lambda: driver)
    monkeypatch.setattr(needs, "installed_version", {"onnxruntime-gpu": "1.31.1"}.get)
    monkeypatch.setattr(context, "open_cuda", lambda index=0: stand_in)
    return stand_in


@pytest.fixture
def runtime(gpu: StandInGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInRuntime]:
    """ONNX Runtime as the loader finds it."""
    stand_in = StandInRuntime(gpu)
    monkeypatch.setattr("ingot.backends.onnxruntime.session.import_runtime", lambda *names: stand_in)
    yield stand_in
    _preload.cache_clear()


Write = Callable[..., Path]


@pytest.fixture
def model() -> Callable[..., ir.Model]:
    """A graph from ONNX text, and its weights by name."""

    def make(graph: str, opset: int = 24, **weights: Array) -> ir.Model:
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {graph}')
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))

    return make


@pytest.fixture
def write(tmp_path: Path, model: Callable[..., ir.Model]) -> Write:
    """An engine file as a compile would write it: cuda first, or the targets named."""

    def make(
        graph: str, signature: Signature, targets: Sequence[Builder] = (CUDA,), opset: int = 24, **weights: Array
    ) -> Path:
        options = BuildOptions(threads=1, folder=tmp_path, signature=signature)
        built = [target.build(model(graph, opset, **weights), options) for target in targets]
        parts = {part.name: part for each in built for part in each.parts}
        header = Header(
            name="made",
            signature=signature,
            targets=tuple(each.target for each in built),
            verification="full",
            numerics="fast",
            versions={"ingot": __version__},
        )
        path = tmp_path / "made.ingot"
        with Draft(tmp_path, path.name, header, list(parts.values())) as draft:
            draft.finish({})
            draft.publish(path)
        return path

    return make


@pytest.fixture
def encoder(write: Write, seed: int) -> Path:
    """The handmade encoder for both targets."""
    return write(ENCODER, ENCODER_SIGNATURE, (CUDA, CPU), 21, table=encoder_table(seed))
