"""What one thread needs to run a plan: an execution context, a stream, and buffers on the GPU that are used again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ingot.errors import EngineError

if TYPE_CHECKING:
    from ingot.device.context import Cuda

ALIGNMENT_BYTES = 256
"""What TensorRT asks of every address."""

_LEAST_BYTES = 512
_STEPS = 3
"""A buffer grows to a number of so many leading bits: at most a quarter is too much, and few sizes mean few growths."""


class Lane:
    """Used by one thread at a time, the GPU's context being current; `free` may come from any."""

    def __init__(self, cuda: Cuda, make_context: Callable[[], Any]) -> None:
        """`make_context` gives TensorRT's execution context. Raises EngineError."""
        self._cuda = cuda
        self._buffers: dict[str, tuple[int, int]] = {}
        self.context: Any = None
        self.stream = cuda.create_stream()
        self.event = self._edge = 0
        try:
            self.event = cuda.create_event()
            self._edge = cuda.create_event()
            self.context = make_context()
        except BaseException:
            self.free()
            raise
        self.profile = 0
        self._pending = False

    def begin(self, stream: int) -> None:
        """What is put into `stream` from now on runs after the last run of this lane, whose memory it uses again."""
        if self._pending:
            self._cuda.wait(stream, self.event)

    def end(self, stream: int, *, done: bool) -> None:
        """A run is in `stream`; `done`: it was waited for."""
        if not done:
            self._cuda.record(self.event, stream)
        self._pending = not done

    def follow(self, stream: int, before: int) -> None:
        """What is put into `stream` from now on runs after all that is in `before` now."""
        if before != stream:
            self._cuda.record(self._edge, before)
            self._cuda.wait(stream, self._edge)

    def buffer(self, name: str, size_bytes: int) -> int:
        """Memory on the GPU for this tensor, good until the next call for it. Raises OutOfDeviceMemory."""
        pointer, capacity = self._buffers.get(name, (0, 0))
        if size_bytes <= capacity:
            return pointer
        if pointer:
            # An earlier run may be using it still.
            self._cuda.synchronize()
            del self._buffers[name]
            self._cuda.free(pointer)
        capacity = rounded(size_bytes)
        self._buffers[name] = self._cuda.allocate(capacity), capacity
        return self._buffers[name][0]

    def free(self) -> None:
        """Gives everything back once it was used; never in a forked child, whose parent has it."""
        cuda = self._cuda
        if cuda.forked:
            return
        buffers, self._buffers = self._buffers, {}
        steps: list[Callable[[], None]] = [
            cuda.synchronize,
            self._drop_context,
            *(partial(cuda.free, pointer) for pointer, _ in buffers.values()),
            *(partial(cuda.destroy_event, event) for event in (self.event, self._edge) if event),
            partial(cuda.destroy_stream, self.stream),
        ]
        for step in steps:
            # One that fails keeps none of the others from it. After a kernel's error every call fails, and the driver
            # gives all back with the process.
            with contextlib.suppress(EngineError), cuda.current():
                step()

    def _drop_context(self) -> None:
        self.context = None


def rounded(size_bytes: int) -> int:
    """The next number of few leading bits, at least 512: 1000 -> 1024, 1100 -> 1280."""
    step = max(_LEAST_BYTES, 1 << max(0, size_bytes.bit_length() - _STEPS))
    return max(step, -(-size_bytes // step) * step)
