"""The CUDA driver through ctypes: which GPUs this machine has. No CUDA package is needed, and none is imported."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76


class Gpu(NamedTuple):
    """One device, by its number in the driver's order; `arch` as in "sm_89"."""

    number: int
    name: str
    arch: str
    memory_bytes: int


class Driver(NamedTuple):
    """What the driver says: the newest CUDA that it takes ("13.0"), its devices, and why there are none."""

    cuda: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None


@cache
def this_driver() -> Driver:
    """Asked once, and only for what a GPU target needs: starting a driver takes tenths of a second.

    Nothing cheaper answers: /proc has no architectures, and NVML does not know of CUDA_VISIBLE_DEVICES.
    """
    return probe(open_library())


def open_library() -> Any:
    """The driver's library, or None where it is not installed."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def probe(library: Any) -> Driver:
    """`library` is what open_library gives."""
    if library is None:
        return Driver(None, (), "no NVIDIA driver")
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return Driver(None, (), "an NVIDIA driver that does not tell its version")
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    status = library.cuInit(0)
    if status != 0:
        return Driver(cuda, (), f"an NVIDIA driver that does not start: {_words(status)}")
    count = ctypes.c_int()
    status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return Driver(cuda, (), f"an NVIDIA driver without a GPU{f': {_words(status)}' if status else ''}")
    found = [_gpu(library, number) for number in range(count.value)]
    gpus = tuple(gpu for gpu in found if isinstance(gpu, Gpu))
    problem = None if gpus else f"a GPU that does not answer: {_words(next(s for s in found if isinstance(s, int)))}"
    return Driver(cuda, gpus, problem)


def _words(status: int) -> str:
    # Only a machine whose driver fails pays for the table.
    from ingot.device.errors import words

    return words(status)


def _gpu(library: Any, number: int) -> Gpu | int:
    """The GPU, or the status of a call that failed: one that does not answer is not there."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    status: int = (
        library.cuDeviceGet(ctypes.byref(device), number)
        or library.cuDeviceGetAttribute(ctypes.byref(major), _ATTRIBUTE_MAJOR, device)
        or library.cuDeviceGetAttribute(ctypes.byref(minor), _ATTRIBUTE_MINOR, device)
        or library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or library.cuDeviceGetName(name, len(name), device)
    )
    if status != 0:
        return status
    return Gpu(number, name.value.decode(errors="replace"), f"sm_{major.value}{minor.value}", memory.value)
