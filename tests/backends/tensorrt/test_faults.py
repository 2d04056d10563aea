"""Every call of the driver that may fail, failing in its turn; threads, closing, and loading again and again.

What is held: an error that says what and what to type, nothing kept of the GPU, and the next run working.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, plugged_in
from fake_tensorrt import AFFINE, AFFINE_PLAN, NEEDS, FakeTensorRt, installed, write_engine

from ingot.device.array import DeviceArray
from ingot.device.context import Cuda, open_cuda
from ingot.errors import EngineError, IngotError
from ingot.file.header import Target
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine

GIVING_BACK = ("Free", "Destroy", "Unload", "PopCurrent")
"""What such a call does not give back stays: there is no other way to."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "e.ingot", AFFINE, [(Target("tensorrt-rtx", {}, NEEDS), AFFINE_PLAN)])


def on_gpu(cuda: Cuda, values: Any, stream: int) -> DeviceArray:
    array = DeviceArray(cuda, values.shape, values.dtype.name, stream)
    cuda.to_device(array.pointer, values.ctypes.data, values.nbytes, stream)
    array.written(stream, done=False)
    return array


def work(path: Path, x: Any) -> None:
    """Loads an engine and runs it in each of the ways."""
    with open_engine(path, threads=1) as engine:
        assert np.array_equal(engine(x).y, x * 2 + 1)
        cuda = open_cuda()
        stream = cuda.create_stream()
        try:
            lent = on_gpu(cuda, x, stream)
            held = engine.run_device({"x": lent}, stream=stream)["y"]
            assert np.array_equal(engine(held).y.numpy(), (x * 2 + 1) * 2 + 1)
            engine.run_device({"x": lent}, stream=0)
        finally:
            cuda.destroy_stream(stream)


def drawn(seed: int, batch: int = 3) -> Any:
    return np.random.default_rng(seed + batch).standard_normal((batch, 4)).astype(np.float32)


def kept(gpu: FakeGpu) -> tuple[int, int, int, int]:
    """Memory, streams beside the one that memory is given back in, events, modules."""

    def now() -> tuple[int, int, int, int]:
        gpu.settle()
        return gpu.used_bytes, gpu.streams - min(gpu.streams, 1), gpu.events, len(gpu.modules)

    if any(now()):
        # An error and what it holds may be a circle.
        gc.collect()
    return now()


def test_whichever_call_fails_nothing_is_kept_and_the_next_run_works(path: Path, seed: int) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the version that is installed is what a plan asks for")
    x = drawn(seed)

    def attempt(fail_at: int, gives_back: bool) -> tuple[list[str], str | None]:
        """The calls made, and what was said."""
        said = None
        with plugged_in(gpu := FakeGpu()), installed(FakeTensorRt(gpu)):
            gpu.fail_at = fail_at
            try:
                work(path, x)
            except EngineError as error:
                said = str(error)
            if not gives_back:
                assert kept(gpu) == (0, 0, 0, 0), (fail_at, gpu.calls[fail_at], said)
                gpu.fail_at = -1
                assert gpu.current == []
                if "cuDevicePrimaryCtxRetain" in gpu.calls:
                    work(path, x)
        return gpu.calls, said

    usual = attempt(-1, gives_back=True)[0]
    names = set()
    for turn in range(len(usual)):
        # Pushing the GPU's context is part of the call that follows.
        name = next(call for call in usual[turn:] if "Push" not in call)
        gives_back = any(part in name for part in GIVING_BACK)
        calls, said = attempt(turn, gives_back)
        assert calls[:turn] == usual[:turn]
        names.add(name)
        if said is None:
            assert gives_back or "Synchronize" in name or "WaitEvent" in name, name
        else:
            assert "try:" in said, (name, said)
            assert "CUDA" in said or "GPU" in said, (name, said)
    assert {"cuInit", "cuMemAlloc_v2", "cuMemAllocAsync", "cuStreamCreate", "cuEventCreate", "cuEventRecord"} <= names
    assert {"cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize", "cuDevicePrimaryCtxRetain"} <= names


def test_eight_threads_from_the_host_and_on_the_gpu(gpu: FakeGpu, trt: FakeTensorRt, path: Path, seed: int) -> None:
    def runs(engine: Engine, cuda: Cuda, turn: int) -> bool:
        found = []
        for batch in range(1, 9):
            x = drawn(seed + turn, batch)
            if (batch + turn) % 2:
                found.append(np.array_equal(engine(x).y, x * 2 + 1))
            else:
                stream = cuda.create_stream()
                y = engine.run_device({"x": on_gpu(cuda, x, stream)}, stream=stream)["y"]
                found.append(np.array_equal(y.numpy(), x * 2 + 1))
                cuda.destroy_stream(stream)
        return all(found)

    with open_engine(path, threads=1) as engine, ThreadPoolExecutor(8) as pool:
        cuda = open_cuda()
        assert list(pool.map(lambda turn: runs(engine, cuda, turn), range(16))) == [True] * 16
    assert kept(gpu) == (0, 0, 0, 0)


def test_closing_while_eight_threads_run(gpu: FakeGpu, trt: FakeTensorRt, path: Path, seed: int) -> None:
    for _ in range(5):
        engine = open_engine(path, threads=1)
        started = threading.Barrier(9, timeout=20)

        def runs(turn: int, engine: Engine = engine, started: threading.Barrier = started) -> str:
            x = drawn(seed + turn)
            started.wait()
            try:
                while True:
                    assert np.array_equal(engine(x).y, x * 2 + 1)
            except IngotError as error:
                return error.what

        with ThreadPoolExecutor(8) as pool:
            ends = [pool.submit(runs, turn) for turn in range(8)]
            started.wait()
            engine.close()
            assert all("was closed" in end.result(20) for end in ends)
        del ends
        assert kept(gpu) == (0, 0, 0, 0), "though the closed engine is still there"


def test_loading_again_and_again_keeps_nothing(gpu: FakeGpu, trt: FakeTensorRt, path: Path, seed: int) -> None:
    x = drawn(seed)
    for _ in range(200):
        with open_engine(path, threads=1) as engine:
            engine(x)
    trt.contexts.clear()
    assert kept(gpu) == (0, 0, 0, 0)
    assert gpu.current == []
    assert threading.active_count() < 20


@pytest.mark.parametrize("ends", [lambda engine: engine.close(), lambda engine: None])
def test_what_an_engine_gave_outlives_it(
    gpu: FakeGpu, trt: FakeTensorRt, path: Path, ends: Callable[[Engine], None], seed: int
) -> None:
    x = drawn(seed)
    engine, cuda = open_engine(path, threads=1), open_cuda()
    stream = cuda.create_stream()
    y = engine.run_device({"x": on_gpu(cuda, x, stream)})["y"]
    ends(engine)
    del engine
    gc.collect()
    assert np.array_equal(y.numpy(), x * 2 + 1)
    cuda.destroy_stream(stream)
    del y
    assert kept(gpu) == (0, 0, 0, 0)
