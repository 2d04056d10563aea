"""Arrays on a GPU that an engine gives, and its view of those that it takes from other libraries, none copied."""

from __future__ import annotations

import contextlib
import math
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ingot.device import dlpack
from ingot.device.context import LEGACY_STREAM, THREAD_STREAM, Cuda
from ingot.errors import EngineError, InputError

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}

Shape = tuple[int, ...]


def size_bytes(shape: Shape, dtype: str) -> int:
    return math.prod(shape) * ITEM_BYTES[dtype]


class View(NamedTuple):
    """Contiguous memory on a GPU, lent for one call.

    stream  the one in which its content is made: what reads it must wait for that; None: it is there
    owner   what keeps the memory alive; for a result, what the caller gets
    """

    pointer: int
    shape: Shape
    dtype: str
    device: int
    stream: int | None
    owner: object


class DeviceArray:
    """A contiguous array on a GPU, made by an engine; its memory is given back when it is dropped.

    Other libraries take it without a copy by DLPack (`torch.from_dlpack(array)`) or `__cuda_array_interface__`
    (`cupy.asarray(array)`), and what they do next waits for the run that makes it. `numpy()` copies it to the host.
    """

    def __init__(self, cuda: Cuda, shape: Shape, dtype: str, stream: int) -> None:
        """Uninitialised memory, for what comes next in `stream`. Raises OutOfDeviceMemory."""
        self.shape, self.dtype = shape, dtype
        self._memory = memory = _Memory(cuda, size_bytes(shape, dtype), stream)
        self._finalizer = weakref.finalize(self, memory.free)

    @property
    def pointer(self) -> int:
        """The address on the GPU."""
        return self._memory.pointer

    @property
    def device(self) -> int:
        """The GPU's number in the driver's order."""
        return self._memory.cuda.gpu.number

    @property
    def nbytes(self) -> int:
        return self._memory.size_bytes

    def written(self, stream: int, *, done: bool) -> None:
        """For an engine: all that makes the content is in `stream` now, and `done` if that was waited for."""
        self._memory.written(stream, done=done)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host, waited for; bfloat16, which numpy lacks, as float32."""
        import numpy as np

        memory = self._memory
        bits = np.empty(self.shape, "uint16" if self.dtype == "bfloat16" else self.dtype)
        if bits.nbytes:
            memory.cuda.to_host(bits.ctypes.data, memory.pointer, bits.nbytes, memory.home_after_content())
            memory.cuda.synchronize(memory.home)
        return (bits.astype(np.uint32) << 16).view(np.float32) if self.dtype == "bfloat16" else bits

    def synchronize(self) -> None:
        """Waits until the content is there. Raises CudaError where the run that makes it failed."""
        memory = self._memory
        memory.cuda.synchronize(memory.home_after_content())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype == "bfloat16":
            raise AttributeError("__cuda_array_interface__ has no bfloat16: DLPack has")
        self._memory.lent = True
        kind = {"b": "|b", "i": "<i", "u": "<u", "f": "<f", "c": "<c"}[self.dtype[0]]
        return {
            "shape": self.shape,
            "typestr": f"{kind if ITEM_BYTES[self.dtype] > 1 else '|' + kind[1]}{ITEM_BYTES[self.dtype]}",
            "data": (self._memory.pointer if self.nbytes else 0, False),
            "strides": None,
            "stream": self._memory.stream,
            "version": 3,
        }

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """`stream` is the taker's: None is the legacy default one, -1 asks for no waiting."""
        if copy:
            raise BufferError("a copy is not made here: take the array, then copy it")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"the array is on GPU {self.device}, and is not copied to another device: array.numpy()")
        memory = self._memory
        if stream != -1:
            memory.let_wait(LEGACY_STREAM if stream is None else stream)
        memory.lent = True
        pointer = memory.pointer if self.nbytes else 0
        return dlpack.make(pointer, self.shape, self.dtype, self.__dlpack_device__(), self, max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __array__(self, *arguments: object, **options: object) -> NoReturn:
        raise TypeError("the array is on a GPU: array.numpy() copies it")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype}{list(self.shape)} on GPU {self.device}>"


class _Memory:
    """What an array holds on the GPU; apart from it, so that it can be given back when the array is gone."""

    def __init__(self, cuda: Cuda, size: int, stream: int) -> None:
        self.cuda, self.size_bytes = cuda, size
        self.lent = False
        self.stream: int | None = None
        self.home = home_stream(cuda)
        self._made = cuda.create_event()
        self.pointer = 0
        try:
            self.pointer = cuda.allocate(max(1, size), stream)
            # Dropped before it was written, it is freed after what made it.
            cuda.record(self._made, stream)
        except BaseException:
            self.free()
            raise

    def written(self, stream: int, *, done: bool) -> None:
        self.cuda.record(self._made, stream)
        self.stream = None if done else stream or LEGACY_STREAM

    def let_wait(self, stream: int) -> None:
        self.cuda.wait(stream, self._made)

    def home_after_content(self) -> int:
        """A stream that outlives all others, in which what comes next finds the content there."""
        self.cuda.wait(self.home, self._made)
        return self.home

    def free(self) -> None:
        """What others do with memory that was lent is in streams of theirs: all of them are waited for."""
        if self.cuda.forked:
            return
        # After a kernel's error every call fails, and the driver gives all back with the process.
        with contextlib.suppress(EngineError):
            if self.pointer:
                self._free()
        with contextlib.suppress(EngineError):
            self.cuda.destroy_event(self._made)

    def _free(self) -> None:
        try:
            if self.lent:
                self.cuda.synchronize()
            home = self.home_after_content()
        except EngineError:
            # Without a stream the driver itself waits for nobody.
            self.cuda.synchronize()
            self.cuda.free(self.pointer)
            raise
        self.cuda.free(self.pointer, home)


_homes: weakref.WeakKeyDictionary[Cuda, int] = weakref.WeakKeyDictionary()


def home_stream(cuda: Cuda) -> int:
    """One stream a GPU that lives as long as the process: memory is given back in it."""
    if cuda not in _homes:
        stream = cuda.create_stream()
        if _homes.setdefault(cuda, stream) != stream:
            cuda.destroy_stream(stream)
    return _homes[cuda]


def view_of(value: Any, name: str, stream: int) -> View:
    """The memory of an array on a GPU, for work in `stream`. Raises InputError with `name` for what cannot be lent."""
    if isinstance(value, DeviceArray):
        value._memory.let_wait(stream)
        return View(value.pointer, value.shape, value.dtype, value.device, None, value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(torch, value, name)
    try:
        if hasattr(value, "__dlpack__"):
            return _of_dlpack(value, name, stream)
        return _of_interface(value, name)
    except (BufferError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"'{name}' cannot be read on the GPU: {error}", fix="a torch or cupy array") from error


def _of_torch(torch: Any, value: Any, name: str) -> View:
    """By torch's own attributes: its allocator reuses memory in the order of its current stream."""
    plain = value.detach()
    if plain.layout != torch.strided or plain.is_conj() or plain.is_neg() or not plain.is_contiguous():
        raise _not_contiguous(name, f"{name}.contiguous()")
    index: int = plain.device.index or 0
    dtype = str(plain.dtype).removeprefix("torch.")
    return View(plain.data_ptr(), tuple(plain.shape), dtype, index, torch_stream(index), value)


def torch_stream(device: int) -> int:
    """The handle of torch's current stream on a GPU."""
    return int(sys.modules["torch"].cuda.current_stream(device).cuda_stream)


def _of_dlpack(value: Any, name: str, stream: int) -> View:
    asked = {"stream": stream or LEGACY_STREAM}
    try:
        capsule = value.__dlpack__(**asked, max_version=dlpack.VERSION)
    except TypeError:
        # Older than the versions: it knows of streams alone.
        capsule = value.__dlpack__(**asked)
    taken = dlpack.take(capsule)
    if not contiguous(taken.shape, taken.strides):
        raise _not_contiguous(name, f"a contiguous copy of {name}")
    return View(taken.pointer, taken.shape, taken.dtype, taken.device[1], None, taken.owner)


def _of_interface(value: Any, name: str) -> View:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3 and older."""
    said = value.__cuda_array_interface__
    shape = tuple(int(size) for size in said["shape"])
    kind = str(said["typestr"])
    dtype = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}[kind[1]]
    if kind[0] == ">" or said.get("mask") is not None:
        raise InputError(f"'{name}' is masked or of a foreign byte order", fix=f"a plain copy of {name}")
    if dtype != "bool":
        dtype += str(8 * int(kind[2:]))
    strides = said.get("strides")
    if strides is not None and not contiguous(shape, [step / ITEM_BYTES[dtype] for step in strides]):
        raise _not_contiguous(name, f"a contiguous copy of {name}")
    stream = said.get("stream")
    # Versions 1 and 2 say nothing of streams: the default one waits for what others usually run in.
    waits = LEGACY_STREAM if stream is None and int(said.get("version", 0)) < 3 else stream
    return View(int(said["data"][0]), shape, dtype, -1, waits, value)


def check_place(view: View, name: str, cuda: Cuda) -> None:
    """Raises InputError with `name` for what does not lie on this GPU."""
    device: int | None = view.device
    if view.device < 0:
        device = cuda.device_of(view.pointer) if view.pointer else cuda.gpu.number
    if device is None:
        raise InputError(f"'{name}' lies in the host's memory", fix="an array on the GPU")
    if device != cuda.gpu.number:
        here = cuda.gpu.number
        raise InputError(
            f"'{name}' is on GPU {device}, and the engine is on GPU {here}",
            fix=f"{name}.to('cuda:{here}'), or CUDA_VISIBLE_DEVICES={device} if the engine is for that GPU too",
        )


def contiguous(shape: Shape, strides: Any) -> bool:
    """`strides` in elements, None: yes. Those of axes of size 1 mean nothing."""
    if strides is None or 0 in shape:
        return True
    step = 1
    for size, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def stream_handle(stream: object) -> int:
    """What people have for a stream: torch's, cupy's, cuda.core's, or the handle itself. Raises InputError."""
    for attribute in ("cuda_stream", "ptr", "handle"):
        if isinstance(found := getattr(stream, attribute, None), int):
            return found
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise InputError(
        f"stream is {stream!r:.60}, which is no CUDA stream", fix="torch.cuda.current_stream(), or the handle as an int"
    )


def is_default(stream: int) -> bool:
    """Whether it is one of the driver's default streams, in which TensorRT would synchronise the whole GPU."""
    return stream in (0, LEGACY_STREAM, THREAD_STREAM)


def _not_contiguous(name: str, fix: str) -> InputError:
    return InputError(f"'{name}' is on the GPU and not contiguous", fix=fix)
