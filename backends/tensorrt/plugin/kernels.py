"""The GPU kernels that an engine file brings for its plugins: which of them runs here, and its launch."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ingot.cuda_driver import Gpu
from ingot.errors import EngineError
from ingot.file import strict_json
from ingot.file.header import Member
from ingot.plugins.declaration import DoesNotFit

KERNELS_LIMIT = 4096
"""Kernels of one plugin in one file."""

CUBIN_LIMIT_BYTES = 64 * 2**20

SHARED_LIMIT_BYTES = 48 * 1024
"""What a kernel gets without asking the driver for more."""

_WARP_THREADS, _GRID_LIMIT = 32, 2**31 - 1
_SCRATCH_POINTERS = 2
"""Triton's kernels take two more pointers behind their own arguments; ours use no scratch memory, so both are null."""

_NAME = re.compile(r"[\w.$-]{1,200}", re.ASCII)
_ARCH = re.compile(r"sm_([1-9][0-9]?)([0-9])")


class Device(Protocol):
    """What is asked of ingot.device.context.Cuda."""

    gpu: Gpu

    def load_module(self, image: bytes) -> int: ...
    def unload_module(self, module: int) -> None: ...
    def function(self, module: int, name: str) -> int: ...
    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        stream: int = 0,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel for one architecture, as the header of the engine file describes it; `key` is Fields.kernel()."""

    key: str
    arch: str
    member: str
    sha256: str
    symbol: str
    warps: int
    shared_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, raw: Any) -> Kernel:
        """Raises DoesNotFit."""
        numbers = ("warps", "shared_bytes")
        kinds = {item.name: int if item.name in numbers else str for item in fields(cls)}
        if not isinstance(raw, dict) or {name: type(value) for name, value in raw.items()} != kinds:
            raise DoesNotFit(f"a kernel is described by {', '.join(kinds)}, not by {str(raw)[:200]}")
        kernel = cls(**raw)
        if _ARCH.fullmatch(kernel.arch) is None or re.fullmatch("[0-9a-f]{64}", kernel.sha256) is None:
            raise DoesNotFit(f"a kernel is for {kernel.arch!r:.40} and has the digest {kernel.sha256!r:.80}")
        if not 1 <= kernel.warps <= 32 or not 0 <= kernel.shared_bytes <= SHARED_LIMIT_BYTES:
            raise DoesNotFit(f"a kernel asks for {kernel.warps} warps and {kernel.shared_bytes} bytes of shared memory")
        for name in (kernel.key, kernel.symbol):
            if _NAME.fullmatch(name) is None:
                raise DoesNotFit(f"a kernel is called {name!r:.80}, which is no name of one")
        return kernel

    def check(self, members: Mapping[str, Member]) -> None:
        """Raises DoesNotFit where its member is none of the file's, or has another digest; no byte of it is read."""
        found = members.get(self.member)
        if found is None:
            raise DoesNotFit(f"the engine file has no member {self.member!r:.120}, which is to be a kernel")
        # A large one has a digest of another kind: its bytes are held to this one before they are launched.
        if found.size_bytes > CUBIN_LIMIT_BYTES or (found.digests is None and found.sha256 != self.sha256):
            raise DoesNotFit(f"{self.member} is not the kernel that the header describes")


def read_kernels(entry: Mapping[str, Any]) -> list[Kernel]:
    """Those of one entry of the header's "plugins". Raises DoesNotFit."""
    listed = entry.get("kernels")
    if not isinstance(listed, list) or len(listed) > KERNELS_LIMIT:
        raise DoesNotFit(f"a plugin's kernels are a list of at most {KERNELS_LIMIT}")
    return [Kernel.from_json(item) for item in listed]


def runs_on(arch: str, gpu: str) -> bool:
    """Whether a cubin for `arch` runs on `gpu`: within a major version, on the same or a later minor one."""
    built, here = _ARCH.fullmatch(arch), _ARCH.fullmatch(gpu)
    return built is not None and here is not None and built[1] == here[1] and int(built[2]) <= int(here[2])


def _unload(device: Device, modules: list[int]) -> None:
    # After a kernel's error every call fails, and the driver gives all back with the process.
    with contextlib.suppress(EngineError):
        for module in modules:
            device.unload_module(module)


class Kernels:
    """The kernels of one plugin of one file. They reach the GPU when first launched, and leave it when this is dropped.
    Safe from many threads."""

    def __init__(
        self, kernels: Sequence[Kernel], read: Callable[[str], bytes] | None = None, device: Device | None = None
    ) -> None:
        """`read` gives the bytes of a member. Without it or `device`, as where an engine is built, none is launched.

        Raises DoesNotFit where one of them is not there for the device's architecture.
        """
        text = strict_json.encode({"kernels": [kernel.to_json() for kernel in kernels]})
        self.digest = hashlib.sha256(text).hexdigest()
        """The plan names it, so that a plan never runs on the kernels of another file."""
        self._kernels = kernels
        self._read = read
        self._device = device
        self._functions: dict[str, tuple[Kernel, int]] = {}
        self._modules: list[int] = []
        if device is not None:
            weakref.finalize(self, _unload, device, self._modules)
        self._lock = threading.Lock()
        if device is not None:
            for key in dict.fromkeys(kernel.key for kernel in kernels):
                self._best(key, device.gpu.arch)

    def check(self, key: str) -> None:
        """Raises DoesNotFit where there is no kernel of this name."""
        if not any(kernel.key == key for kernel in self._kernels):
            known = ", ".join(dict.fromkeys(kernel.key for kernel in self._kernels)) or "none"
            raise DoesNotFit(f"the engine file has no kernel {key}; it has {known}")

    def launch(self, key: str, programs: int, pointers: Sequence[int], numbers: Sequence[float], stream: int) -> None:
        """Runs `programs` instances on `stream`: first the pointers, then the numbers as float32.

        Raises EngineError for too many, for a kernel that is not the one described, and for what the driver refuses.
        """
        if programs == 0:
            return
        if programs > _GRID_LIMIT:
            raise EngineError(f"kernel {key}: {programs} programs; a GPU takes {_GRID_LIMIT} at once")
        if self._device is None:
            raise EngineError(f"kernel {key} cannot run here: no GPU was opened for it")
        kernel, function = self._function(key)
        arguments = [
            *(ctypes.c_void_p(pointer) for pointer in pointers),
            *(ctypes.c_float(number) for number in numbers),
            *(ctypes.c_void_p(None) for _ in range(_SCRATCH_POINTERS)),
        ]
        block = (_WARP_THREADS * kernel.warps, 1, 1)
        self._device.launch(
            function, (programs, 1, 1), block, arguments, shared_bytes=kernel.shared_bytes, stream=stream
        )

    def _function(self, key: str) -> tuple[Kernel, int]:
        with self._lock:
            if key not in self._functions:
                self._functions[key] = self._load(key)
            return self._functions[key]

    def _load(self, key: str) -> tuple[Kernel, int]:
        if self._device is None or self._read is None:
            raise EngineError(f"kernel {key} cannot run here: there is no engine file to read it from")
        kernel = self._best(key, self._device.gpu.arch)
        data = self._read(kernel.member)
        if len(data) > CUBIN_LIMIT_BYTES or hashlib.sha256(data).hexdigest() != kernel.sha256:
            raise EngineError(f"{kernel.member} is not the kernel that the header describes", fix="compile it again")
        module = self._device.load_module(data)
        self._modules.append(module)
        return kernel, self._device.function(module, kernel.symbol)

    def _best(self, key: str, gpu: str) -> Kernel:
        self.check(key)
        built = [kernel for kernel in self._kernels if kernel.key == key]
        fitting = [kernel for kernel in built if runs_on(kernel.arch, gpu)]
        if not fitting:
            archs = ", ".join(kernel.arch for kernel in built)
            raise DoesNotFit(f"the engine file has the kernel {key} for {archs}, not for {gpu}")
        return max(fitting, key=lambda kernel: int(kernel.arch.removeprefix("sm_")))
