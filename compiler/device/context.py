"""One GPU of this process: its primary context, and what is done in it: memory, copies, streams, events, kernels."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from ingot.cuda_driver import Gpu, open_library, this_driver
from ingot.device.errors import OutOfDeviceMemory, error_of
from ingot.errors import EngineError, RequirementError

LEGACY_STREAM, THREAD_STREAM = 1, 2
"""The driver's names of its two default streams, beside 0, which is the legacy one."""

_NON_BLOCKING_STREAM = 1
_EVENT_WITHOUT_TIMES = 2
_POOLS_SUPPORTED = 115
_MEMORY_TYPE, _DEVICE_ORDINAL = 2, 9
_HOST = 1
_INVALID_VALUE = 1
_MAX_DYNAMIC_SHARED_BYTES = 8

opened: dict[int, Cuda] = {}
"""By number; never closed: other libraries of the process use the same contexts."""

_lock = threading.Lock()


def open_cuda(index: int = 0) -> Cuda:
    """The GPU of this number in the driver's order, opened once a process.

    Raises RequirementError where there is no driver or no such GPU, EngineError in a child forked after it was opened.
    """
    with _lock:
        if index not in opened:
            driver = this_driver()
            gpu = next((gpu for gpu in driver.gpus if gpu.number == index), None)
            if gpu is None:
                raise RequirementError(
                    f"this needs GPU {index}, found {driver.problem or f'{len(driver.gpus)} GPUs'}",
                    fix="a machine with one; ingot env shows what is here",
                )
            opened[index] = Cuda(open_library(), gpu)
    return opened[index]


class Cuda:
    """One GPU. Safe from many threads, whichever context is current in them: each call pushes this one and pops it.

    Pointers, streams, events, modules and functions are the driver's own handles, as integers; stream 0 is the legacy
    default stream. Every method raises CudaError (OutOfDeviceMemory), or RequirementError where it is the machine that
    lacks something; an error of a kernel comes from whatever call is made next.
    """

    def __init__(self, library: Any, gpu: Gpu) -> None:
        """`library` is what `open_library` gives. The primary context is the one that other libraries use too."""
        self.gpu = gpu
        self.forked = False
        self._library = library
        device, context, pools = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        self._do("starting CUDA", "cuInit", 0)
        self._do("finding the GPU", "cuDeviceGet", ctypes.byref(device), gpu.number)
        self._do("asking the GPU", "cuDeviceGetAttribute", ctypes.byref(pools), _POOLS_SUPPORTED, device)
        # The last: it is never given back.
        self._do("opening the GPU", "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._current = _Current(self, context)
        self._pooled = pools.value != 0
        _alive.add(self)

    def current(self) -> _Current:
        """A context manager in which other libraries' calls find this GPU."""
        return self._current

    def allocate(self, size_bytes: int, stream: int | None = None) -> int:
        """Aligned to 256 bytes. With a stream it is there for what follows in it, and comes from the driver's pool."""
        pointer = ctypes.c_uint64()
        try:
            if stream is None or not self._pooled:
                self._call("allocating", "cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
            else:
                size = ctypes.c_size_t(size_bytes)
                self._call("allocating", "cuMemAllocAsync", ctypes.byref(pointer), size, ctypes.c_void_p(stream))
        except OutOfDeviceMemory as error:
            raise self._out_of_memory(size_bytes, error) from error
        return pointer.value

    def free(self, pointer: int, stream: int | None = None) -> None:
        """With a stream: after what is in it now. Without one the caller sees to it that nothing uses it still."""
        if stream is None or not self._pooled:
            self._call("freeing memory", "cuMemFree_v2", ctypes.c_uint64(pointer))
        else:
            self._call("freeing memory", "cuMemFreeAsync", ctypes.c_uint64(pointer), ctypes.c_void_p(stream))

    def memory_bytes(self) -> tuple[int, int]:
        """(free, total)."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("asking for the free memory", "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def to_device(self, pointer: int, host_address: int, size_bytes: int, stream: int) -> None:
        """Host memory that is not pinned may be reused on return."""
        self._call(
            "copying to the GPU",
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(pointer),
            ctypes.c_void_p(host_address),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(stream),
        )

    def to_host(self, host_address: int, pointer: int, size_bytes: int, stream: int) -> None:
        self._call(
            "copying from the GPU",
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host_address),
            ctypes.c_uint64(pointer),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(stream),
        )

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Between two places on the GPU."""
        self._call(
            "copying on the GPU",
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(destination),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(stream),
        )

    def device_of(self, pointer: int) -> int | None:
        """The number of the GPU that `pointer` lies on; None for host memory, pinned or not."""
        kind, ordinal, address = ctypes.c_uint(), ctypes.c_int(), ctypes.c_uint64(pointer)
        with self._current:
            status = self._library.cuPointerGetAttribute(ctypes.byref(kind), _MEMORY_TYPE, address)
            if status == _INVALID_VALUE or (status == 0 and kind.value == _HOST):
                return None
            self._check(status, "asking where memory lies")
            self._do(
                "asking where memory lies", "cuPointerGetAttribute", ctypes.byref(ordinal), _DEVICE_ORDINAL, address
            )
        return ordinal.value

    def create_stream(self) -> int:
        """One that does not wait for the legacy default stream."""
        stream = ctypes.c_void_p()
        self._call("making a stream", "cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING_STREAM)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """What is in it still runs to its end."""
        self._call("giving back a stream", "cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def synchronize(self, stream: int | None = None) -> None:
        """Waits for all that is in the stream; None: for all that is on the GPU."""
        if stream is None:
            self._call("running on the GPU", "cuCtxSynchronize")
        else:
            self._call("running on the GPU", "cuStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self) -> int:
        event = ctypes.c_void_p()
        self._call("making an event", "cuEventCreate", ctypes.byref(event), _EVENT_WITHOUT_TIMES)
        return event.value or 0

    def destroy_event(self, event: int) -> None:
        self._call("giving back an event", "cuEventDestroy_v2", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        self._call("recording an event", "cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait(self, stream: int, event: int) -> None:
        """What is put into the stream from now on runs after what the event recorded; this thread does not wait."""
        self._call("waiting for an event", "cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), 0)

    def load_module(self, image: bytes) -> int:
        """A cubin, a fat binary, or PTX with a zero byte at its end."""
        module = ctypes.c_void_p()
        self._call("loading kernels", "cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image))
        return module.value or 0

    def unload_module(self, module: int) -> None:
        self._call("unloading kernels", "cuModuleUnload", ctypes.c_void_p(module))

    def function(self, module: int, name: str) -> int:
        found, encoded = ctypes.c_void_p(), ctypes.c_char_p(name.encode())
        doing = f"finding the kernel {name}"
        self._call(doing, "cuModuleGetFunction", ctypes.byref(found), ctypes.c_void_p(module), encoded)
        return found.value or 0

    def allow_shared_memory(self, function: int, size_bytes: int) -> None:
        """Must come before a launch with more than 48 KiB."""
        size = ctypes.c_int(size_bytes)
        handle = ctypes.c_void_p(function)
        self._call("giving a kernel its memory", "cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED_BYTES, size)

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        stream: int = 0,
    ) -> None:
        """`arguments` are ctypes values of the kernel's own parameter types; they are copied before this returns."""
        addresses = (ctypes.c_void_p * max(1, len(arguments)))(*[ctypes.addressof(value) for value in arguments])
        sizes = [ctypes.c_uint(size) for size in (*grid, *block, shared_bytes)]
        handle, place = ctypes.c_void_p(function), ctypes.c_void_p(stream)
        self._call("starting a kernel", "cuLaunchKernel", handle, *sizes, place, addresses, None)

    def _call(self, doing: str, name: str, *arguments: Any) -> None:
        with self._current:
            self._do(doing, name, *arguments)

    def _do(self, doing: str, name: str, *arguments: Any) -> None:
        if self.forked:
            raise left_behind()
        self._check(getattr(self._library, name)(*arguments), doing)

    def _check(self, status: int, doing: str) -> None:
        if status != 0:
            raise error_of(status, doing)

    def _out_of_memory(self, size_bytes: int, error: OutOfDeviceMemory) -> OutOfDeviceMemory:
        free, total = self.memory_bytes()
        return OutOfDeviceMemory(
            f"GPU {self.gpu.number} ({self.gpu.name}) is out of memory: {size_bytes:,} bytes were asked for, "
            f"{free:,} of {total:,} are free",
            fix=error.fix,
        )


class _Current:
    """Has no state of its own, so that threads and nested uses share one."""

    def __init__(self, cuda: Cuda, context: ctypes.c_void_p) -> None:
        self._cuda = weakref.proxy(cuda)
        self._context = context

    def __enter__(self) -> None:
        self._cuda._do("entering the GPU's context", "cuCtxPushCurrent_v2", self._context)

    def __exit__(self, *exception: object) -> None:
        self._cuda._do("leaving the GPU's context", "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def left_behind(where: str | None = None) -> EngineError:
    """For what was opened before this process was forked."""
    return EngineError(
        "the engine was loaded before this process was forked: a GPU stays with the parent",
        where=where,
        fix="ingot.load(path) in the child, started by multiprocessing.get_context('spawn')",
    )


_alive: weakref.WeakSet[Cuda] = weakref.WeakSet()


def _mark_forked() -> None:
    for cuda in _alive:
        cuda.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)
