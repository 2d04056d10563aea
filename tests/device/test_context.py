"""The driver's calls: which are made, in which context, and what becomes of their failures."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, plugged_in

from ingot.cuda_driver import Gpu, probe, this_driver
from ingot.device.context import Cuda, open_cuda
from ingot.device.errors import CudaError, OutOfDeviceMemory
from ingot.errors import EngineError, RequirementError


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    fake = FakeGpu()
    with plugged_in(fake):
        yield fake
    assert fake.current == []


def to_gpu(cuda: Cuda, array: Any) -> int:
    pointer = cuda.allocate(array.nbytes)
    cuda.to_device(pointer, array.ctypes.data, array.nbytes, 0)
    return pointer


def from_gpu(cuda: Cuda, pointer: int, like: Any, stream: int = 0) -> Any:
    array = np.empty_like(like)
    cuda.to_host(array.ctypes.data, pointer, array.nbytes, stream)
    cuda.synchronize(stream)
    return array


def test_the_probe_tells_the_gpus(gpu: FakeGpu) -> None:
    driver = this_driver()
    assert driver.cuda == "13.0"
    assert driver.gpus == (Gpu(0, "Fake GPU", "sm_89", 1 << 30),)
    assert driver.problem is None


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ({"cuDriverGetVersion": 999}, "does not tell its version"),
        ({"cuInit": 803}, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"),
        ({"cuInit": 100}, "CUDA_ERROR_NO_DEVICE (100)"),
        ({"cuDeviceGetCount": 999}, "without a GPU: CUDA_ERROR_UNKNOWN"),
    ],
)
def test_the_probe_tells_why_there_is_none(fail: dict[str, int], said: str) -> None:
    library = FakeGpu()
    library.fail = fail
    driver = probe(library)
    assert driver.gpus == ()
    assert said in (driver.problem or "")
    with plugged_in(library), pytest.raises(RequirementError) as caught:
        open_cuda()
    assert said in caught.value.what


def test_the_probe_tells_of_no_driver_and_no_gpu() -> None:
    assert probe(None).problem == "no NVIDIA driver"
    library = FakeGpu()
    library.devices = 0
    assert probe(library).problem == "an NVIDIA driver without a GPU"


def test_a_gpu_is_opened_once(gpu: FakeGpu) -> None:
    assert open_cuda() is open_cuda(0)
    with pytest.raises(RequirementError, match="needs GPU 3, found 1 GPUs"):
        open_cuda(3)


@pytest.mark.parametrize("pools", [1, 0])
def test_bytes_go_there_and_back(gpu: FakeGpu, pools: int, seed: int) -> None:
    gpu.pools = pools
    cuda = open_cuda()
    array = np.random.default_rng(seed).standard_normal((7, 5))
    stream = cuda.create_stream()
    first, second = cuda.allocate(array.nbytes, stream), cuda.allocate(array.nbytes)
    cuda.to_device(first, array.ctypes.data, array.nbytes, stream)
    cuda.copy(second, first, array.nbytes, stream)
    assert np.array_equal(from_gpu(cuda, second, array, stream), array)
    assert (cuda.device_of(first), cuda.device_of(array.ctypes.data)) == (0, None)
    cuda.free(first, stream)
    cuda.free(second)
    cuda.destroy_stream(stream)
    assert (gpu.used_bytes, gpu.streams) == (0, 0)
    assert ("cuMemAllocAsync" in gpu.calls, "cuMemFreeAsync" in gpu.calls) == (bool(pools), bool(pools))


def test_an_event_makes_a_stream_wait(gpu: FakeGpu, seed: int) -> None:
    cuda = open_cuda()
    array = np.random.default_rng(seed).standard_normal(9)
    pointer, (first, second) = cuda.allocate(array.nbytes), (cuda.create_stream(), cuda.create_stream())
    cuda.to_device(pointer, array.ctypes.data, array.nbytes, first)
    assert not np.array_equal(from_gpu(cuda, pointer, array, second), array)
    event = cuda.create_event()
    cuda.record(event, first)
    cuda.wait(second, event)
    assert np.array_equal(from_gpu(cuda, pointer, array, second), array)


def test_out_of_memory_says_how_much_and_breaks_nothing(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    kept = cuda.allocate(1000)
    for stream in (None, 0):
        with pytest.raises(OutOfDeviceMemory) as caught:
            cuda.allocate(1 << 31, stream)
        assert "2,147,483,648 bytes were asked for, 1,073,740,824 of 1,073,741,824 are free" in caught.value.what
        assert "Fake GPU" in caught.value.what
    cuda.free(kept)
    cuda.free(cuda.allocate(1 << 20))


def test_a_kernel_is_started_with_its_arguments(gpu: FakeGpu, seed: int) -> None:
    def scale(pointer: int, count: int, factor: float) -> None:
        values = np.frombuffer(gpu.read(pointer, 8 * count), np.float64) * factor
        ctypes.memmove(gpu.place(pointer, 8 * count), values.tobytes(), 8 * count)

    gpu.kernels["scale"] = ([ctypes.c_uint64, ctypes.c_int, ctypes.c_double], scale)
    cuda = open_cuda()
    array = np.random.default_rng(seed).standard_normal(5)
    pointer = to_gpu(cuda, array)
    module = cuda.load_module(b"\x7fELF")
    function = cuda.function(module, "scale")
    cuda.allow_shared_memory(function, 100_000)
    arguments = [ctypes.c_uint64(pointer), ctypes.c_int(5), ctypes.c_double(2.5)]
    cuda.launch(function, (1, 1, 1), (32, 1, 1), arguments, shared_bytes=100_000)
    assert np.allclose(from_gpu(cuda, pointer, array), array * 2.5)
    with pytest.raises(CudaError, match="finding the kernel other failed: CUDA_ERROR_NOT_FOUND"):
        cuda.function(module, "other")
    cuda.unload_module(module)


def test_an_error_of_a_kernel_is_told_by_what_comes_next(gpu: FakeGpu) -> None:
    def touch() -> None:
        gpu.place(12345, 4)

    gpu.kernels["touch"] = ([], touch)
    cuda = open_cuda()
    cuda.launch(cuda.function(cuda.load_module(b""), "touch"), (1, 1, 1), (1, 1, 1), [])
    for _ in range(2):
        with pytest.raises(CudaError, match=r"running on the GPU failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
            cuda.synchronize()


def test_machine_code_for_another_gpu_is_a_requirement(gpu: FakeGpu) -> None:
    gpu.fail["cuModuleLoadData"] = 209
    with pytest.raises(RequirementError, match="NO_BINARY_FOR_GPU"):
        open_cuda().load_module(b"")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_is_told(gpu: FakeGpu) -> None:
    cuda = open_cuda()
    child = os.fork()
    if child == 0:
        try:
            cuda.allocate(10)
        except EngineError as error:
            os._exit(3 if "forked" in error.what and "spawn" in (error.fix or "") else 4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    cuda.free(cuda.allocate(10))
