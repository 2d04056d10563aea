"""A GPU as a plugin's kernels see it: remembers what it was given, arguments by value as the driver reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ingot.cuda_driver import Gpu


class FakeDevice:
    """Takes machine code whose kernel is called skip_norm: module 101, function 201, and so on.

    arguments of a launch are pairs of their type and their value
    """

    def __init__(self, arch: str = "sm_89") -> None:
        self.gpu = Gpu(0, "fake", arch, 2**30)
        self.images: list[bytes] = []
        self.unloaded: list[int] = []
        self.launches: list[dict[str, Any]] = []

    def load_module(self, image: bytes) -> int:
        self.images.append(image)
        return 100 + len(self.images)

    def unload_module(self, module: int) -> None:
        self.unloaded.append(module)

    def function(self, module: int, name: str) -> int:
        assert name == "skip_norm"
        return module + 100

    def launch(self, function: int, *places: Any, shared_bytes: int = 0, stream: int = 0) -> None:
        grid, block, arguments = places
        values: Sequence[Any] = [(type(value), value.value) for value in arguments]
        self.launches.append(
            {"function": function, "grid": grid, "block": block, "arguments": values, "shared_bytes": shared_bytes}
            | {"stream": stream}
        )
