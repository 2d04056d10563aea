"""A stand-in for the CUDA driver's library: memory that is not the host's, streams that run late, errors on demand.

Tests run the GPU targets on it, without a GPU. Device addresses are no addresses of the process, so that mixing the two
is an error and not luck. A stream does nothing before somebody waits for it, and then only what it must: work that
should have waited for other work, and does not, finds the memory as it was.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from ingot import cuda_driver
from ingot.device import context

ALIGNMENT_BYTES = 256
FIRST_ADDRESS = 0x7F00_0000_0000_0000
"""Beyond what any process has."""

OK, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_HANDLE, NOT_FOUND, ILLEGAL_ADDRESS = 0, 1, 2, 100, 400, 500, 700
UNKNOWN = 999
LEGACY_STREAM = 1
FIRST_CONTEXT = 77
"""Of the first GPU; the others' follow."""

_one_at_a_time = threading.RLock()

Kernel = tuple[list[Any], Callable[..., None]]
"""The ctypes of its parameters, and what it does with their values."""


@contextmanager
def plugged_in(gpu: FakeGpu | None) -> Iterator[None]:
    """Meanwhile this process finds this GPU, or with None no driver."""
    with patch.object(cuda_driver, "open_library", lambda: gpu), patch.object(context, "open_library", lambda: gpu):
        cuda_driver.this_driver.cache_clear()
        before = dict(context.opened)
        context.opened.clear()
        try:
            yield
        finally:
            cuda_driver.this_driver.cache_clear()
            context.opened.clear()
            context.opened.update(before)


def _plain(argument: Any) -> Any:
    """What the driver sees: a value, or the place that it writes to."""
    return argument if isinstance(argument, ctypes.Array) else getattr(argument, "value", argument)


class Broken(Exception):
    """A status that a call gives."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(eq=False)
class _Stream:
    work: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0

    def run_to(self, count: int) -> None:
        with _one_at_a_time:
            while self.done < count:
                self.done += 1
                self.work[self.done - 1]()


class FakeGpu:
    """The functions of libcuda.so.1 that Ingot calls, as attributes of the library that `open_library` gives.

    fail      the status that a function gives from now on, by its name: {"cuInit": 100}
    fail_at   the number of the call that fails, counted from 0
    calls     the names of the functions called
    kernels   what the machine code in any module holds, by name
    modules   loaded and not given back
    current   the contexts that were pushed and not popped
    archs     of the GPUs that have another one than `arch`, by number; `devices` is how many there are
    """

    def __init__(self, *, arch: tuple[int, int] = (8, 9), cuda: int = 13000, memory_bytes: int = 1 << 30) -> None:
        self.arch, self.cuda, self.memory_bytes = arch, cuda, memory_bytes
        self.fail: dict[str, int] = {}
        self.fail_at = -1
        self.calls: list[str] = []
        self.kernels: dict[str, Kernel] = {}
        self.devices = 1
        self.archs: dict[int, tuple[int, int]] = {}
        self.current: list[int] = []
        self.memory: dict[int, Any] = {}
        self.modules: set[int] = set()
        self._homes: dict[int, int] = {}
        self.pools = 1
        self._next = FIRST_ADDRESS
        self._streams: dict[int, _Stream] = {0: _Stream()}
        self._events: dict[int, tuple[_Stream, int] | None] = {}
        self._handles = 1000
        self._functions: dict[int, str] = {}
        self._error = OK

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = getattr(self, "_" + name.removesuffix("_v2"))

        def call(*arguments: Any) -> int:
            # As the driver: one call at a time, whatever the thread; who waits keeps nobody else waiting.
            with nullcontext() if "Synchronize" in name else _one_at_a_time:
                self.calls.append(name)
                if name in self.fail:
                    return self.fail[name]
                if len(self.calls) - 1 == self.fail_at:
                    return OUT_OF_MEMORY if "Alloc" in name else UNKNOWN
                try:
                    function(*[_plain(argument) for argument in arguments])
                except Broken as broken:
                    return broken.status
                return OK

        return call

    # What tests ask.

    @property
    def used_bytes(self) -> int:
        return sum(len(content) for content in self.memory.values())

    @property
    def streams(self) -> int:
        """Alive, beside the default ones."""
        return len(self._streams) - 1

    @property
    def events(self) -> int:
        return len(self._events)

    def adopt(self, address: int, size_bytes: int) -> None:
        """Takes memory of the host, which another library holds, for memory of the GPU."""
        self.memory[address] = (ctypes.c_char * size_bytes).from_address(address)

    def place(self, address: int, size_bytes: int) -> int:
        """The host's address of memory on the GPU. Raises Broken where none is allocated there."""
        for start, content in self.memory.items():
            if start <= address and address + size_bytes <= start + len(content):
                return ctypes.addressof(content) + address - start
        raise Broken(ILLEGAL_ADDRESS)

    def read(self, address: int, size_bytes: int) -> bytes:
        return ctypes.string_at(self.place(address, size_bytes), size_bytes)

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self._stream(stream).work.append(work)

    def settle(self) -> None:
        """Runs what is in the streams, as time would."""
        for stream in list(self._streams.values()):
            self.current.append(FIRST_CONTEXT)
            try:
                stream.run_to(len(stream.work))
            finally:
                self.current.pop()

    # The driver.

    def _cuInit(self, flags: int) -> None: ...

    def _cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = self.cuda

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cuDeviceGet(self, device: Any, index: int) -> None:
        if index >= self.devices:
            raise Broken(101)
        device._obj.value = index

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        major, minor = self.archs.get(device, self.arch)
        value._obj.value = {75: major, 76: minor, 115: self.pools}[attribute]

    def _cuDeviceTotalMem(self, size: Any, device: int) -> None:
        size._obj.value = self.memory_bytes

    def _cuDeviceGetName(self, name: Any, length: int, device: int) -> None:
        name.value = b"Fake GPU"

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        context._obj.value = FIRST_CONTEXT + device

    def _cuCtxPushCurrent(self, context: int) -> None:
        self.current.append(context)

    def _cuCtxPopCurrent(self, context: Any) -> None:
        context._obj.value = self.current.pop()

    def _cuCtxSynchronize(self) -> None:
        self._need_context()
        for stream in list(self._streams.values()):
            self._finish(stream)

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory_bytes - self.used_bytes, self.memory_bytes

    def _cuMemAlloc(self, pointer: Any, size_bytes: int) -> None:
        self._need_context()
        if size_bytes == 0:
            raise Broken(INVALID_VALUE)
        if self.used_bytes + size_bytes > self.memory_bytes:
            raise Broken(OUT_OF_MEMORY)
        self.memory[self._next] = ctypes.create_string_buffer(b"\xaa" * size_bytes, size_bytes)
        self._homes[self._next] = self.current[-1] - FIRST_CONTEXT
        pointer._obj.value = self._next
        self._next += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES + ALIGNMENT_BYTES

    def _cuMemAllocAsync(self, pointer: Any, size_bytes: int, stream: int) -> None:
        self._stream(stream)
        self._cuMemAlloc(pointer, size_bytes)

    def _cuMemFree(self, pointer: int) -> None:
        self._need_context()
        if pointer not in self.memory:
            raise Broken(INVALID_VALUE)
        del self.memory[pointer]
        self._homes.pop(pointer, None)

    def _cuMemFreeAsync(self, pointer: int, stream: int) -> None:
        if pointer not in self.memory:
            raise Broken(INVALID_VALUE)
        self.enqueue(stream, lambda: self._cuMemFree(pointer))

    def _cuMemcpyHtoDAsync(self, pointer: int, host: int, size_bytes: int, stream: int) -> None:
        self.place(pointer, size_bytes)
        if host >= FIRST_ADDRESS:
            raise Broken(INVALID_VALUE)
        # The driver has read memory that is not pinned when it returns.
        content = ctypes.string_at(host, size_bytes)
        self.enqueue(stream, lambda: self._move(self.place(pointer, size_bytes), content))

    def _cuMemcpyDtoHAsync(self, host: int, pointer: int, size_bytes: int, stream: int) -> None:
        self.place(pointer, size_bytes)
        if host >= FIRST_ADDRESS:
            raise Broken(INVALID_VALUE)
        self.enqueue(stream, lambda: self._move(host, self.read(pointer, size_bytes)))

    def _cuMemcpyDtoDAsync(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        self.place(destination, size_bytes), self.place(source, size_bytes)
        self.enqueue(stream, lambda: self._move(self.place(destination, size_bytes), self.read(source, size_bytes)))

    def _cuPointerGetAttribute(self, value: Any, attribute: int, pointer: int) -> None:
        try:
            self.place(pointer, 1)
        except Broken:
            raise Broken(INVALID_VALUE) from None
        home = max((start for start in self._homes if start <= pointer), default=0)
        value._obj.value = {2: 2, 9: self._homes.get(home, 0)}[attribute]

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        stream._obj.value = self._handle()
        self._streams[stream._obj.value] = _Stream()

    def _cuStreamDestroy(self, stream: int) -> None:
        self._finish(self._stream(stream))
        del self._streams[stream]

    def _cuStreamSynchronize(self, stream: int | None) -> None:
        self._finish(self._stream(stream))

    def _cuStreamWaitEvent(self, stream: int | None, event: int, flags: int) -> None:
        if event not in self._events:
            raise Broken(INVALID_HANDLE)
        recorded = self._events[event]
        if recorded is not None:
            other, count = recorded
            self.enqueue(stream or 0, lambda: other.run_to(count))

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        event._obj.value = self._handle()
        self._events[event._obj.value] = None

    def _cuEventRecord(self, event: int, stream: int | None) -> None:
        if event not in self._events:
            raise Broken(INVALID_HANDLE)
        found = self._stream(stream)
        self._events[event] = found, len(found.work)

    def _cuEventDestroy(self, event: int) -> None:
        if event not in self._events:
            raise Broken(INVALID_HANDLE)
        del self._events[event]

    def _cuModuleLoadData(self, module: Any, image: bytes) -> None:
        module._obj.value = self._handle()
        self.modules.add(module._obj.value)

    def _cuModuleUnload(self, module: int) -> None:
        if module not in self.modules:
            raise Broken(INVALID_HANDLE)
        self.modules.remove(module)

    def _cuModuleGetFunction(self, function: Any, module: int, name: bytes) -> None:
        if name.decode() not in self.kernels:
            raise Broken(NOT_FOUND)
        function._obj.value = self._handle()
        self._functions[function._obj.value] = name.decode()

    def _cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> None: ...

    def _cuLaunchKernel(self, function: int, *rest: Any) -> None:
        *_, stream, addresses, _ = rest
        types, kernel = self.kernels[self._functions[function]]
        # The driver copies the arguments while it is called.
        values = [kind.from_address(addresses[index]).value for index, kind in enumerate(types)]
        self.enqueue(stream or 0, lambda: kernel(*values))

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _stream(self, handle: int | None) -> _Stream:
        self._need_context()
        stream = self._streams.get(0 if handle in (None, LEGACY_STREAM) else handle or 0)
        if stream is None:
            raise Broken(INVALID_HANDLE)
        return stream

    def _finish(self, stream: _Stream) -> None:
        """An error of late work is every later call's."""
        if self._error:
            raise Broken(self._error)
        try:
            stream.run_to(len(stream.work))
        except Broken as broken:
            self._error = broken.status
            raise

    def _need_context(self) -> None:
        if not self.current:
            raise Broken(201)

    @staticmethod
    def _move(address: int, content: bytes) -> None:
        ctypes.memmove(address, content, len(content))
