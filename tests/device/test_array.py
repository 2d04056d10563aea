"""Arrays on the GPU: lent both ways without a copy, in the order of streams, and given back when nobody has them."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, plugged_in

from ingot.device import dlpack
from ingot.device.array import DeviceArray, contiguous, is_default, stream_handle, view_of
from ingot.device.context import Cuda, open_cuda
from ingot.device.errors import CudaError
from ingot.errors import InputError


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with plugged_in(fake := FakeGpu()):
        yield fake


@pytest.fixture
def cuda(gpu: FakeGpu) -> Cuda:
    return open_cuda()


def made(cuda: Cuda, values: Any, stream: int, *, dtype: str | None = None, done: bool = False) -> DeviceArray:
    """As an engine makes one: its content is written in `stream`."""
    array = DeviceArray(cuda, values.shape, dtype or str(values.dtype), stream)
    if values.nbytes:
        cuda.to_device(array.pointer, values.ctypes.data, values.nbytes, stream)
    if done:
        cuda.synchronize(stream)
    array.written(stream, done=done)
    return array


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8", "complex64"])
@pytest.mark.parametrize("shape", [(), (3, 4), (0, 2)])
def test_comes_back_to_the_host(cuda: Cuda, shape: tuple[int, ...], dtype: str, seed: int) -> None:
    values = np.asarray(np.random.default_rng(seed).integers(0, 2, shape)).astype(dtype)
    array = made(cuda, values, cuda.create_stream())
    assert (array.shape, array.dtype, array.device, array.nbytes) == (shape, dtype, 0, values.nbytes)
    got = array.numpy()
    assert (got.dtype, got.shape) == (values.dtype, values.shape)
    assert np.array_equal(got, values)
    said = array.__cuda_array_interface__
    assert np.dtype(said["typestr"]) == values.dtype
    assert (said["shape"], said["strides"], said["version"]) == (shape, None, 3)


def test_bfloat16_comes_back_as_float32_and_has_no_interface(cuda: Cuda, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    array = made(cuda, bits, cuda.create_stream(), dtype="bfloat16")
    assert np.array_equal(array.numpy(), (bits.astype(np.uint32) << 16).view(np.float32))
    assert not hasattr(array, "__cuda_array_interface__")
    assert dlpack.take(array.__dlpack__()).dtype == "bfloat16"


def test_the_interface_names_the_stream_that_its_taker_must_wait_for(cuda: Cuda) -> None:
    stream = cuda.create_stream()
    values = np.arange(6.0)
    assert made(cuda, values, stream).__cuda_array_interface__["stream"] == stream
    assert made(cuda, values, 0).__cuda_array_interface__["stream"] == 1
    assert made(cuda, values, stream, done=True).__cuda_array_interface__["stream"] is None


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_taker_by_dlpack_sees_the_content(gpu: FakeGpu, cuda: Cuda, version: Any, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float32)
    array = made(cuda, values, cuda.create_stream())
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    theirs = cuda.create_stream()
    taken = dlpack.take(array.__dlpack__(stream=theirs, max_version=version))
    assert (taken.shape, taken.dtype, taken.device) == ((3, 5), "float32", (dlpack.CUDA, 0))
    assert taken.pointer == array.pointer
    cuda.synchronize(theirs)
    assert gpu.read(taken.pointer, taken.shape[0] * 20) == values.tobytes()


def test_a_taker_that_asks_for_no_waiting_gets_none(gpu: FakeGpu, cuda: Cuda) -> None:
    array = made(cuda, np.arange(3.0), cuda.create_stream())
    before = gpu.calls.count("cuStreamWaitEvent")
    dlpack.take(array.__dlpack__(stream=-1))
    assert gpu.calls.count("cuStreamWaitEvent") == before
    array.__dlpack__()
    assert gpu.calls.count("cuStreamWaitEvent") == before + 1


def test_what_dlpack_cannot_give_is_refused(cuda: Cuda) -> None:
    array = made(cuda, np.arange(3.0), 0)
    with pytest.raises(BufferError, match="copy"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match=r"array\.numpy"):
        array.__dlpack__(dl_device=(dlpack.CPU, 0))
    with pytest.raises(TypeError, match=r"array\.numpy"):
        np.asarray(array)


def test_memory_is_given_back_when_it_is_dropped(gpu: FakeGpu, cuda: Cuda) -> None:
    stream = cuda.create_stream()
    array = made(cuda, np.arange(8.0), stream)
    events = gpu.events
    assert len(array) == 8
    assert gpu.used_bytes == 64
    del array
    gc.collect()
    assert gpu.used_bytes == 64, "what makes the content is not done yet"
    cuda.synchronize()
    assert (gpu.used_bytes, gpu.events) == (0, events - 1)


def test_lent_memory_outlives_the_array_and_its_takers_work(gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(8)
    array = made(cuda, values, cuda.create_stream())
    theirs = cuda.create_stream()
    taken = dlpack.take(array.__dlpack__(stream=theirs))
    got = np.empty_like(values)
    cuda.to_host(got.ctypes.data, taken.pointer, got.nbytes, theirs)
    del array
    gc.collect()
    assert gpu.used_bytes == 64
    del taken
    gc.collect()
    assert np.array_equal(got, values), "what the taker began was waited for"
    cuda.synchronize()
    assert gpu.used_bytes == 0


def test_an_array_that_does_not_fit_leaves_nothing(gpu: FakeGpu, cuda: Cuda) -> None:
    made(cuda, np.arange(2.0), 0)
    cuda.synchronize()
    before = gpu.events
    with pytest.raises(CudaError, match="out of memory"):
        DeviceArray(cuda, (1 << 30,), "float64", 0)
    assert gpu.events == before


class Interface:
    """An array of another library, by `__cuda_array_interface__`."""

    def __init__(self, **said: Any) -> None:
        self.__cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (512, False), "version": 3} | said


class Pack:
    """An array of another library, by DLPack; on the host, for what is looked at here does not touch it."""

    def __init__(self, array: Any, *, old: bool = False) -> None:
        self.array, self.old, self.asked = array, old, []

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        if self.old and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**{key: value for key, value in options.items() if key != "stream"})


def test_views_of_the_interface() -> None:
    view = view_of(Interface(stream=7), "x", 5)
    assert view[:5] == (512, (2, 3), "float32", -1, 7)
    assert view_of(Interface(), "x", 5).stream is None
    assert view_of(Interface(version=2), "x", 5).stream == 1
    assert view_of(Interface(strides=(12, 4)), "x", 5).pointer == 512
    assert view_of(Interface(typestr="|b1"), "x", 5).dtype == "bool"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"strides": (4, 8)}, "not contiguous"),
        ({"strides": (24, 8)}, "not contiguous"),
        ({"typestr": ">f4"}, "byte order"),
        ({"mask": object()}, "masked"),
        ({"typestr": "|O8"}, "cannot be read"),
        ({"shape": None}, "cannot be read"),
    ],
)
def test_what_cannot_be_lent_by_the_interface_is_said(said: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        view_of(Interface(**said), "rows", 5)
    assert "'rows'" in caught.value.what


@pytest.mark.parametrize("old", [True, False])
def test_views_by_dlpack_tell_the_maker_the_stream(old: bool, seed: int) -> None:
    array = np.random.default_rng(seed).standard_normal((2, 3))
    pack = Pack(array, old=old)
    view = view_of(pack, "x", 9)
    assert (view.shape, view.dtype, view.stream) == ((2, 3), "float64", None)
    assert ctypes.string_at(view.pointer, 48) == array.tobytes()
    assert pack.asked[-1]["stream"] == 9
    view_of(pack, "x", 0)
    assert pack.asked[-1]["stream"] == 1
    with pytest.raises(InputError, match="'x' is on the GPU and not contiguous"):
        view_of(Pack(array.T), "x", 9)


def test_a_view_of_ours_waits_for_its_content(gpu: FakeGpu, cuda: Cuda, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(4)
    array = made(cuda, values, cuda.create_stream())
    stream = cuda.create_stream()
    view = view_of(array, "x", stream)
    cuda.synchronize(stream)
    assert gpu.read(view.pointer, 32) == values.tobytes()
    assert view.owner is array


@pytest.mark.parametrize(
    ("shape", "strides", "is_it"),
    [
        ((2, 3), None, True),
        ((2, 3), (3, 1), True),
        ((2, 3), (1, 2), False),
        ((2, 3), (0, 1), False),
        ((1, 3), (77, 1), True),
        ((0, 3), (5, 5), True),
        ((), (), True),
    ],
)
def test_contiguous(shape: tuple[int, ...], strides: Any, is_it: bool) -> None:
    assert contiguous(shape, strides) is is_it


def test_streams_of_every_library() -> None:
    class Torch:
        cuda_stream = 11

    class Cupy:
        ptr = 12

    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 13

    assert [stream_handle(stream) for stream in (Torch(), Cupy(), Protocol(), 14, 0)] == [11, 12, 13, 14, 0]
    assert [is_default(stream) for stream in (0, 1, 2, 3)] == [True, True, True, False]
    for wrong in ("s", True, -1, 1.5):
        with pytest.raises(InputError, match="no CUDA stream"):
            stream_handle(wrong)
