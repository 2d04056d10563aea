"""A plan at work: from the host and back, on the GPU in place, in the order of streams, from many threads, and failing.

TensorRT and the driver are stand-ins, whose streams do nothing before they are waited for and whose memory is not the
host's: a missing wait or a mixed address gives wrong numbers here, not luck.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu
from fake_tensorrt import AFFINE, NEEDS, FakeTensorRt, plan_bytes, write_engine

from ingot.backends.tensorrt.lane import rounded
from ingot.device.array import DeviceArray
from ingot.device.context import Cuda
from ingot.errors import EngineError, FormatError, InputError, UsageError
from ingot.file.header import Target
from ingot.models.handmade import write_encoder
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine
from ingot.signature import Dim, Signature, Tensor

TWO = Signature(
    inputs=(Tensor("a", "float32", ("batch", 4)), Tensor("b", "float32", ("batch", 4))),
    outputs=(Tensor("sum", "float32", ("batch", 4)),),
    dims=(Dim("batch"),),
    parameters={"a": {"tensor": 0}, "b": {"tensor": 1}},
    result={"tensor": 0},
)

PROFILE = ("float32", [([1, 4], [2, 4], [8, 4])])

Opener = Callable[..., Engine]


@pytest.fixture
def opened(trt: FakeTensorRt, tmp_path: Path) -> Iterator[Opener]:
    engines: list[Engine] = []

    def opened(signature: Signature = AFFINE, plan: bytes | None = None) -> Engine:
        operation = "add" if signature is TWO else "affine"
        inputs, outputs = {t.name: PROFILE for t in signature.inputs}, {t.name: t.dtype for t in signature.outputs}
        path = tmp_path / f"{len(engines)}.ingot"
        content = plan or plan_bytes(operation, inputs, outputs)
        write_engine(path, signature, [(Target("tensorrt-rtx", {}, NEEDS), content)])
        engines.append(open_engine(path, threads=1))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(opened: Opener) -> Engine:
    return opened()


def drawn(seed: int, batch: int = 3) -> Any:
    return np.random.default_rng(seed + batch).standard_normal((batch, 4)).astype(np.float32)


class OnGpu:
    """Another library's array: written in a stream of its own, lent by `__cuda_array_interface__`."""

    def __init__(self, cuda: Cuda, values: Any, *, offset: int = 0, stream: int | None = None) -> None:
        self.cuda, self.values = cuda, values
        self.stream = cuda.create_stream() if stream is None else stream
        self.pointer = cuda.allocate(values.nbytes + offset) + offset
        cuda.to_device(self.pointer, values.ctypes.data, values.nbytes, self.stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.values.shape,
            "typestr": self.values.dtype.str,
            "data": (self.pointer, False),
            "stream": self.stream,
            "version": 3,
        }

    def numpy(self, stream: int) -> Any:
        got = np.empty_like(self.values)
        self.cuda.to_host(got.ctypes.data, self.pointer, got.nbytes, stream)
        self.cuda.synchronize(stream)
        return got


def test_host_arrays_of_any_batch(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    for batch in (1, 8, 3, 8, 2):
        x = drawn(seed, batch)
        out = engine(x)
        assert np.array_equal(out.y, x * 2 + 1)
        assert np.array_equal(out.s, x.sum(-1))
        assert np.array_equal(engine.run_named({"x": x})["y"], out.y)


def test_buffers_are_used_again(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    engine(drawn(seed, 8))
    used, allocations = gpu.used_bytes, gpu.calls.count("cuMemAlloc_v2")
    first = engine(drawn(seed, 2)).y
    kept = first.copy()
    for batch in range(1, 9):
        engine(drawn(seed, batch))
    assert np.array_equal(first, kept), "a result is the caller's"
    assert (gpu.used_bytes, gpu.calls.count("cuMemAlloc_v2")) == (used, allocations)


def test_buffers_grow_in_few_steps() -> None:
    sizes = [rounded(size) for size in range(0, 100_000, 7)]
    assert all(rounded(size) >= max(size, 1) for size in range(0, 100_000, 7))
    assert len(set(sizes)) < 40
    assert all(rounded(size) <= 1.34 * size for size in range(2048, 100_000, 7))


def test_torch_on_the_host_gives_torch(engine: Engine, seed: int) -> None:
    torch = pytest.importorskip("torch")
    x = drawn(seed)
    out = engine(torch.from_numpy(x))
    assert isinstance(out.y, torch.Tensor)
    assert np.array_equal(out.y.numpy(), x * 2 + 1)


@pytest.mark.parametrize("batch", [9, 100])
def test_shapes_outside_of_the_profile_are_shown_it(engine: Engine, trt: FakeTensorRt, batch: int, seed: int) -> None:
    engine(drawn(seed))
    before = trt.contexts[0]._shapes.copy()
    with pytest.raises(InputError) as caught:
        engine(drawn(seed, batch))
    assert caught.value.what == f"axis 0 of input 'x' is {batch}, outside of the engine's profile [1 .. 8, 4]"
    assert "--shape x=" in (caught.value.fix or "")
    assert trt.contexts[0]._shapes == before, "TensorRT was not asked"
    assert np.array_equal(engine(drawn(seed)).y, drawn(seed) * 2 + 1)


def test_of_several_profiles_the_one_that_fits_is_taken(opened: Opener, trt: FakeTensorRt, seed: int) -> None:
    profiles = [([1, 4], [2, 4], [2, 4]), ([4, 4], [8, 4], [16, 4])]
    plan = plan_bytes("affine", {"x": ("float32", profiles)}, {"y": "float32", "s": "float32"})
    engine = opened(plan=plan)
    for batch in (1, 16, 2, 5):
        assert np.array_equal(engine(drawn(seed, batch)).y, drawn(seed, batch) * 2 + 1)
    with pytest.raises(InputError, match=r"is 3, outside of the engine's profile \[1 \.\. 2, 4\] or \[4 \.\. 16, 4\]"):
        engine(drawn(seed, 3))


def test_arrays_on_the_gpu_are_read_in_place(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x = drawn(seed)
    given = OnGpu(cuda, x)
    copies = gpu.calls.count("cuMemcpyHtoDAsync_v2"), gpu.calls.count("cuMemcpyDtoDAsync_v2")
    out = engine(given)
    assert (gpu.calls.count("cuMemcpyHtoDAsync_v2"), gpu.calls.count("cuMemcpyDtoDAsync_v2")) == copies
    assert gpu.calls.count("cuMemcpyDtoHAsync_v2") == 0
    assert isinstance(out.y, DeviceArray)
    assert (out.y.shape, out.y.dtype, out.y.device) == ((3, 4), "float32", 0)
    assert out.y.__cuda_array_interface__["stream"] is None, "the call was waited for"
    assert gpu.read(out.y.pointer, x.nbytes) == (x * 2 + 1).tobytes()
    assert np.array_equal(out.s.numpy(), x.sum(-1))


def test_results_go_into_the_next_run_without_the_host(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x = drawn(seed)
    stream = cuda.create_stream()
    value: Any = OnGpu(cuda, x)
    for _ in range(3):
        value = engine.run_device({"x": value}, stream=stream)["y"]
    assert gpu.calls.count("cuStreamSynchronize") == 0
    assert np.array_equal(value.numpy(), ((x * 2 + 1) * 2 + 1) * 2 + 1)


def test_a_stream_is_not_waited_for(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x, stream = drawn(seed), cuda.create_stream()
    given = OnGpu(cuda, x)
    out = engine.run_device({"x": given}, stream=stream)
    assert gpu.read(out["y"].pointer, 4) == b"\xaa" * 4, "nothing has run yet"
    assert out["y"].__cuda_array_interface__["stream"] == stream
    cuda.synchronize(stream)
    assert gpu.read(out["y"].pointer, x.nbytes) == (x * 2 + 1).tobytes()


@pytest.mark.parametrize("default", [0, 1])
def test_a_default_stream_goes_before_and_after(
    engine: Engine, gpu: FakeGpu, cuda: Cuda, default: int, seed: int
) -> None:
    """TensorRT is not run in it, as it would synchronise the GPU there."""
    x = drawn(seed)
    given = OnGpu(cuda, x, stream=default)
    out = engine.run_device({"x": given}, stream=default)
    assert gpu.calls.count("cuStreamSynchronize") == 0
    cuda.synchronize(default)
    assert gpu.read(out["y"].pointer, x.nbytes) == (x * 2 + 1).tobytes()


def test_runs_on_two_streams_follow_each_other(engine: Engine, cuda: Cuda, trt: FakeTensorRt, seed: int) -> None:
    """They share one execution context: the stand-in fails where the later one runs first."""
    streams = [cuda.create_stream() for _ in range(3)]
    xs = [drawn(seed + turn) for turn in range(6)]
    outs = [engine.run_device({"x": OnGpu(cuda, x)}, stream=streams[turn % 3])["y"] for turn, x in enumerate(xs)]
    for out, x in reversed(list(zip(outs, xs, strict=True))):
        assert np.array_equal(out.numpy(), x * 2 + 1)
    assert len(trt.contexts) == 1


def test_a_run_from_the_host_follows_one_in_a_stream(engine: Engine, cuda: Cuda, seed: int) -> None:
    first, second = drawn(seed), drawn(seed + 1, 7)
    out = engine.run_device({"x": OnGpu(cuda, first, offset=4)}, stream=cuda.create_stream())["y"]
    assert np.array_equal(engine(second).y, second * 2 + 1)
    assert np.array_equal(out.numpy(), first * 2 + 1)


def test_addresses_that_are_not_aligned_are_copied(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x = drawn(seed)
    given, room = OnGpu(cuda, x, offset=4), OnGpu(cuda, np.zeros_like(x), offset=8)
    stream = cuda.create_stream()
    out = engine.run_device({"x": given}, outputs={"y": room}, stream=stream)
    assert out["y"] is room
    assert np.array_equal(room.numpy(stream), x * 2 + 1)


def test_results_go_where_they_are_told(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x = drawn(seed)
    room = OnGpu(cuda, np.zeros_like(x))
    out = engine.run_device({"x": OnGpu(cuda, x)}, outputs={"y": room})
    assert out["y"] is room
    assert gpu.read(room.pointer, x.nbytes) == (x * 2 + 1).tobytes()
    assert np.array_equal(out["s"].numpy(), x.sum(-1))
    cuda.synchronize()
    assert gpu.read(room.pointer, x.nbytes) == (x * 2 + 1).tobytes(), "what the room held before came first"
    for outputs, said in (
        ({"y": OnGpu(cuda, np.zeros((2, 4), np.float32))}, r"has room for \[2, 4\], and this run gives \[3, 4\]"),
        ({"y": OnGpu(cuda, np.zeros((3, 4)))}, "'y' is float64 on the GPU, and must be float32"),
        ({"y": np.zeros((3, 4), np.float32)}, "output 'y' is to go to the GPU, and this is ndarray"),
        ({"z": room}, "no output 'z'; there are y, s"),
    ):
        with pytest.raises(InputError, match=said):
            engine.run_device({"x": OnGpu(cuda, x)}, outputs=outputs)
    assert np.array_equal(engine(x).y, x * 2 + 1)


def test_a_host_array_where_one_on_the_gpu_is_due(opened: Opener, cuda: Cuda, seed: int) -> None:
    engine, x = opened(TWO), drawn(seed)
    on_gpu = OnGpu(cuda, x)
    for call in (lambda: engine(on_gpu, x), lambda: engine.run_device({"a": on_gpu, "b": x})):
        with pytest.raises(InputError, match="input 'b' is ndarray in the host's memory, and all inputs") as caught:
            call()
        assert caught.value.fix == "torch.as_tensor(b).cuda(), or every input on the host"
    with pytest.raises(InputError, match="input 'a' is list in the host's memory"):
        engine.run_device({"a": x.tolist(), "b": x})
    assert np.array_equal(engine(on_gpu, OnGpu(cuda, x)).numpy(), x + x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.astype(np.float64), "'x' is float64 on the GPU, and must be float32"),
        (lambda x: np.zeros((2, 5), np.float32), "axis 1 of input 'x' is 5, and must be 4"),
        (lambda x: np.zeros((9, 4), np.float32), r"is 9, outside of the engine's profile \[1 \.\. 8, 4\]"),
    ],
)
def test_arrays_on_the_gpu_that_do_not_fit(
    engine: Engine, cuda: Cuda, change: Callable[[Any], Any], said: str, seed: int
) -> None:
    with pytest.raises(InputError, match=said):
        engine(OnGpu(cuda, change(drawn(seed))))


def test_the_host_and_other_gpus_are_told_apart(engine: Engine, cuda: Cuda, gpu: FakeGpu, seed: int) -> None:
    class Liar(OnGpu):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return super().__cuda_array_interface__ | {"data": (self.values.ctypes.data, False)}

    with pytest.raises(InputError, match="'x' lies in the host's memory"):
        engine(Liar(cuda, drawn(seed)))
    given, real = OnGpu(cuda, drawn(seed)), gpu._cuPointerGetAttribute

    def elsewhere(value: Any, attribute: int, pointer: int) -> None:
        real(value, attribute, pointer)
        value._obj.value += attribute == 9

    gpu._cuPointerGetAttribute = elsewhere  # type: ignore[method-assign]
    with pytest.raises(InputError, match="'x' is on GPU 1, and the engine is on GPU 0") as caught:
        engine(given)
    assert "CUDA_VISIBLE_DEVICES=1" in (caught.value.fix or "")


def test_torch_tensors_on_the_gpu_give_torch_tensors(
    engine: Engine, gpu: FakeGpu, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """torch here has no GPU: its memory is taken for the stand-in's, aligned as on a GPU."""
    torch = pytest.importorskip("torch")
    stream = cuda.create_stream()

    class Device:
        type, index = "cuda", 0

    class Cuda_(torch.Tensor):  # type: ignore[misc]
        @property
        def device(self) -> Any:
            return Device

        @staticmethod
        def of(plain: Any) -> Any:
            gpu.adopt(plain.data_ptr(), plain.numel() * plain.element_size())
            return plain.as_subclass(Cuda_)

        def detach(self) -> Any:
            return self

        def new_empty(self, shape: Sequence[int], **options: Any) -> Any:
            return Cuda_.of(aligned(torch, torch.empty(tuple(shape), dtype=options["dtype"])))

    class Current:
        cuda_stream = stream

    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: Current)
    x = drawn(seed)
    given = Cuda_.of(aligned(torch, torch.from_numpy(x)))
    out = engine(given)
    assert type(out.y) is Cuda_
    assert gpu.calls.count("cuStreamSynchronize") == 0
    assert gpu.calls.count("cuMemcpyDtoDAsync_v2") == 0
    cuda.synchronize(stream)
    plain = out.y.as_subclass(torch.Tensor)
    assert np.array_equal(plain.numpy(), x * 2 + 1)
    turned = Cuda_.of(aligned(torch, torch.zeros(4, 3)).T)
    with pytest.raises(InputError, match=r"'x' is on the GPU and not contiguous") as caught:
        engine(turned)
    assert caught.value.fix == "x.contiguous()"


def aligned(torch: Any, plain: Any) -> Any:
    """A copy at an address that is a multiple of 256, as torch gives on a GPU."""
    room = torch.empty(plain.numel() * plain.element_size() + 256, dtype=torch.uint8)
    start = -room.data_ptr() % 256
    copy = room[start : start + plain.numel() * plain.element_size()].view(plain.dtype).view(plain.shape)
    copy.copy_(plain)
    return copy


def test_an_engine_of_the_host_says_so(tmp_path: Path, cuda: Cuda, seed: int) -> None:
    with open_engine(write_encoder(tmp_path / "e.ingot", seed), target="cpu", threads=1) as engine:
        ids = OnGpu(cuda, np.array([[1, 2]]))
        with pytest.raises(InputError, match="'ids' is on a GPU, and target cpu reads the CPU's memory") as caught:
            engine(ids, np.array([[1, 1]]))
        assert "ids.cpu()" in (caught.value.fix or "")
        with pytest.raises(UsageError, match="target cpu reads the host's memory"):
            engine.run_device({"ids": np.array([[1, 2]]), "mask": np.array([[1, 1]])})


def test_tensors_in_the_hosts_memory(opened: Opener, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    """What decides shapes is read and written there by TensorRT."""
    plan = plan_bytes("affine", {"x": PROFILE}, {"y": "float32", "s": "float32"}, host=["x", "s"])
    engine, x = opened(plan=plan), drawn(seed)
    out = engine(x)
    assert np.array_equal(out.y, x * 2 + 1)
    assert np.array_equal(out.s, x.sum(-1))
    for stream in (None, cuda.create_stream()):
        lent = engine.run_device({"x": OnGpu(cuda, x)}, stream=stream)
        assert np.array_equal(lent["y"].numpy(), x * 2 + 1)
        assert np.array_equal(lent["s"].numpy(), x.sum(-1))


def test_an_input_that_the_model_does_not_read(trt: FakeTensorRt, cuda: Cuda, tmp_path: Path, seed: int) -> None:
    """The plan may lack it where the header says so, and only there."""
    signature = AFFINE._replace(
        inputs=(Tensor("spare", "int64", ("batch",)), *AFFINE.inputs),
        parameters={"spare": {"tensor": 0}, "x": {"tensor": 1}},
    )
    plan, x = plan_bytes("affine", {"x": PROFILE}, {"y": "float32", "s": "float32"}), drawn(seed)
    aim = Target("tensorrt-rtx", {}, NEEDS, {"unread": ["spare"]})
    with open_engine(write_engine(tmp_path / "e.ingot", signature, [(aim, plan)])) as engine:
        assert np.array_equal(engine(np.zeros(3, np.int64), x).y, x * 2 + 1)
        lent = engine(OnGpu(cuda, np.zeros(3, np.int64)), OnGpu(cuda, x))
        assert np.array_equal(lent.y.numpy(), x * 2 + 1)
    with pytest.raises(FormatError, match="inputs are x, the header declares spare, x"):
        open_engine(write_engine(tmp_path / "f.ingot", signature, [(aim._replace(options={}), plan)]))


def test_threads_have_a_context_each(engine: Engine, trt: FakeTensorRt, gpu: FakeGpu, seed: int) -> None:
    together = threading.Barrier(4, timeout=20)

    def work(turn: int) -> bool:
        together.wait()
        xs = [drawn(seed + turn, 1 + turn) for turn in range(8)]
        return all(np.array_equal(engine(x).y, x * 2 + 1) for x in xs)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
    assert len(trt.contexts) == 4


def test_a_thread_that_ends_gives_its_memory_back(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    engine(drawn(seed))
    before = gpu.used_bytes, gpu.streams, gpu.events
    thread = threading.Thread(target=lambda: engine(drawn(seed, 8)))
    thread.start()
    thread.join()
    gc.collect()
    assert (gpu.used_bytes, gpu.streams, gpu.events) == before


def test_closing_gives_the_memory_of_all_threads_back(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        together = threading.Barrier(3, timeout=20)
        list(pool.map(lambda turn: (together.wait(), engine(drawn(seed))), range(3)))
        engine(drawn(seed))
        assert gpu.streams == 4
        engine.close()
        gc.collect()
        assert (gpu.used_bytes, gpu.streams, gpu.events) == (0, 0, 0)
    with pytest.raises(UsageError, match="was closed"):
        engine(drawn(seed))


def test_a_run_goes_on_though_the_engine_is_closed(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = gpu._cuStreamSynchronize

    def slow(stream: int | None) -> None:
        inside.set()
        assert go_on.wait(20)
        real(stream)

    gpu._cuStreamSynchronize = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(engine, drawn(seed))
        assert inside.wait(20)
        engine.close()
        assert gpu.streams == 1
        go_on.set()
        assert np.array_equal(run.result(20).y, drawn(seed) * 2 + 1)
        del run
    gc.collect()
    assert (gpu.used_bytes, gpu.streams, gpu.events) == (0, 0, 0)


def test_out_of_memory_is_said_and_the_next_run_works(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    x = drawn(seed, 8)
    gpu.memory_bytes = 100
    with pytest.raises(EngineError, match="GPU 0 \\(Fake GPU\\) is out of memory: 512 bytes were asked for") as caught:
        engine(x)
    assert (caught.value.where, caught.value.fix) == ("x [8, 4]", caught.value.fix)
    assert "smaller batch" in (caught.value.fix or "")
    assert (gpu.used_bytes, gpu.streams, gpu.events) == (0, 0, 0)
    gpu.memory_bytes = 1 << 20
    assert np.array_equal(engine(x).y, x * 2 + 1)


def test_out_of_memory_in_results_on_the_gpu(engine: Engine, gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    x = drawn(seed)
    given = OnGpu(cuda, x)
    gpu.memory_bytes = gpu.used_bytes + 10
    with pytest.raises(EngineError, match="out of memory"):
        engine(given)
    gpu.memory_bytes = 1 << 20
    assert np.array_equal(engine(given).y.numpy(), x * 2 + 1)


@pytest.mark.parametrize("moment", ["context", "execute"])
def test_tensorrts_own_failures_tell_its_reason(
    engine: Engine, trt: FakeTensorRt, gpu: FakeGpu, moment: str, seed: int
) -> None:
    trt.refuse[moment] = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (out of memory)"
    with pytest.raises(EngineError, match=r"Cuda Runtime \(out of memory\)"):
        engine(drawn(seed))
    assert (gpu.used_bytes, gpu.streams, gpu.events) == (0, 0, 0)
    assert np.array_equal(engine(drawn(seed)).y, drawn(seed) * 2 + 1)


def test_an_illegal_address_says_to_start_again(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    engine(drawn(seed))
    gpu.fail["cuStreamSynchronize"] = 700
    with pytest.raises(EngineError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\)") as caught:
        engine(drawn(seed))
    assert caught.value.where == "x [3, 4]"
    assert "start again" in (caught.value.fix or "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_is_told_and_gives_nothing_back(engine: Engine, gpu: FakeGpu, seed: int) -> None:
    engine(drawn(seed))
    child = os.fork()
    if child == 0:
        calls = len(gpu.calls)
        try:
            engine(drawn(seed))
        except EngineError as error:
            engine.close()
            quiet = len(gpu.calls) == calls
            os._exit(3 if "forked" in error.what and "ingot.load" in (error.fix or "") and quiet else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert np.array_equal(engine(drawn(seed)).y, drawn(seed) * 2 + 1)
