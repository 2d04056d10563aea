"""Every target there is, by the name people type; modules are imported when a target is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from ingot.errors import UsageError

if TYPE_CHECKING:
    from ingot.backends.contract import Builder, Loader

TARGETS = {
    "cpu": "ingot.backends.cpu",
}


def loader(name: str) -> Loader:
    return cast("Loader", import_module(f"{_home(name)}.load").LOADER)


def builder(name: str) -> Builder:
    return cast("Builder", import_module(f"{_home(name)}.build").BUILDER)


def _home(name: str) -> str:
    if name not in TARGETS:
        raise UsageError(f"there is no target '{name}'", fix=f"one of: {', '.join(TARGETS)}")
    return TARGETS[name]
