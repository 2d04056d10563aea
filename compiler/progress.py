"""What a compile says while it works: the names of its steps, as they begin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Told of each step as it begins, and of what goes on inside one ("middle batch=3 sequence=17")."""

    def begin(self, step: str) -> None: ...

    def detail(self, text: str) -> None: ...


class Silent:
    """Says nothing."""

    def begin(self, step: str) -> None:
        del step

    def detail(self, text: str) -> None:
        del text


class Steps:
    """Announces steps and keeps what each took, for the record."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.taken: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.progress.begin(name)
        began = time.perf_counter()
        yield
        self.taken.append({"name": name, "seconds": round(time.perf_counter() - began, 3)})
