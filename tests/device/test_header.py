"""The driver's calls held to its own header, cuda.h, which Triton's wheel brings: names, arguments, numbers."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import FakeGpu, plugged_in

from ingot.cuda_driver import this_driver
from ingot.device import context, errors
from ingot.device.context import open_cuda


@pytest.fixture(scope="module")
def header() -> str:
    found = importlib.util.find_spec("triton")
    path = Path(found.origin or "").parent / "backends" / "nvidia" / "include" / "cuda.h" if found else None
    if path is None or not path.exists():
        pytest.skip("cuda.h comes with triton, which is not installed")
    return path.read_text(encoding="utf-8", errors="replace")


class Recorder(FakeGpu):
    """Keeps what it was called with, as it would go over to C."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, tuple[Any, ...]] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        call = super().__getattr__(name)

        def recorded(*arguments: Any) -> int:
            self.given[name] = arguments
            return call(*arguments)

        return recorded


@pytest.fixture(scope="module")
def given() -> dict[str, tuple[Any, ...]]:
    """Every call that is made of the driver, with its arguments."""
    library = Recorder()
    library.kernels["k"] = ([ctypes.c_int], lambda value: None)
    content = ctypes.create_string_buffer(64)
    with plugged_in(library):
        this_driver()
        cuda = open_cuda()
        stream, event = cuda.create_stream(), cuda.create_event()
        first, second = cuda.allocate(64), cuda.allocate(64, stream)
        cuda.to_device(first, ctypes.addressof(content), 64, stream)
        cuda.copy(second, first, 64, stream)
        cuda.to_host(ctypes.addressof(content), second, 64, stream)
        cuda.record(event, stream)
        cuda.wait(stream, event)
        cuda.device_of(first)
        cuda.memory_bytes()
        module = cuda.load_module(b"image")
        function = cuda.function(module, "k")
        cuda.allow_shared_memory(function, 64)
        cuda.launch(function, (1, 2, 3), (4, 5, 6), [ctypes.c_int(1)], shared_bytes=7, stream=stream)
        cuda.synchronize(stream)
        cuda.synchronize()
        cuda.unload_module(module)
        cuda.free(first)
        cuda.free(second, stream)
        cuda.destroy_event(event)
        cuda.destroy_stream(stream)
    return library.given


def parameters(header: str, name: str) -> list[str]:
    """The types of a function's parameters."""
    found = re.search(rf"^CUresult CUDAAPI {name}\(([^)]*)\);", header, re.M)
    assert found, f"cuda.h has no {name}"
    parts = [part.strip() for part in found.group(1).split(",")]
    return [] if parts == ["void"] else [re.sub(r"\s*\w+$", "", part) for part in parts]


HANDLES = (
    "CUstream",
    "CUevent",
    "CUmodule",
    "CUfunction",
    "CUcontext",
    "void *",
    "const void *",
    "const char *",
    "char *",
)


def fits(kind: str, argument: Any) -> bool:
    """Whether ctypes hands over what C expects; a plain int goes over as an int of 32 bits."""
    if kind in ("CUdeviceptr", "size_t"):
        return isinstance(argument, ctypes.c_uint64 | ctypes.c_size_t)
    if kind.endswith("**"):
        return argument is None or isinstance(argument, ctypes.Array) or type(argument).__name__ == "CArgObject"
    if kind in HANDLES:
        pointers = ctypes.c_void_p | ctypes.c_char_p | ctypes.Array
        return isinstance(argument, pointers) or type(argument).__name__ == "CArgObject"
    if kind.endswith("*"):
        return type(argument).__name__ == "CArgObject"
    return isinstance(argument, int | ctypes.c_int | ctypes.c_uint)


def test_every_call_is_the_headers(header: str, given: dict[str, tuple[Any, ...]]) -> None:
    assert len(given) == 32, sorted(given)
    for name, arguments in given.items():
        kinds = parameters(header, name.removesuffix("_v2"))
        assert len(kinds) == len(arguments), name
        wrong = [(kind, value) for kind, value in zip(kinds, arguments, strict=True) if not fits(kind, value)]
        assert wrong == [], name


def test_every_call_is_of_the_version_that_the_header_means(header: str, given: dict[str, tuple[Any, ...]]) -> None:
    for name in given:
        plain = name.removesuffix("_v2")
        meant = re.findall(rf"^\s*#\s*define\s+{plain}\s+(?:\w+\()?(\w+)", header, re.M)
        assert not meant or name in {each.removesuffix("_ptsz") for each in meant}, (name, meant)
        assert (plain != name) <= bool(meant), f"{name} is not what cuda.h calls {plain}"


def test_the_numbers_are_the_headers(header: str) -> None:
    for status, meaning in errors._MEANINGS.items():
        assert re.search(rf"\bCUDA_ERROR_{meaning.name}\s*=\s*{status}\b", header), meaning.name
    for name, value in {
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
        "CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED": context._POOLS_SUPPORTED,
        "CU_POINTER_ATTRIBUTE_MEMORY_TYPE": context._MEMORY_TYPE,
        "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL": context._DEVICE_ORDINAL,
        "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": context._MAX_DYNAMIC_SHARED_BYTES,
        "CU_EVENT_DISABLE_TIMING": context._EVENT_WITHOUT_TIMES,
        "CU_STREAM_NON_BLOCKING": context._NON_BLOCKING_STREAM,
        "CU_MEMORYTYPE_HOST": context._HOST,
    }.items():
        said = re.search(rf"\b{name}\s*=\s*(0x[0-9a-fA-F]+|\d+)", header)
        assert said, name
        assert int(said.group(1), 0) == value, name
    assert f"CU_STREAM_LEGACY     ((CUstream)0x{context.LEGACY_STREAM})" in header
    assert f"CU_STREAM_PER_THREAD ((CUstream)0x{context.THREAD_STREAM})" in header
