"""Every target there is, by the name people type; modules are imported when a target is first used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from ingot.errors import RequirementError, UsageError
from ingot.file.header import Target
from ingot.machine import this_machine

if TYPE_CHECKING:
    from ingot.backends.contract import Builder, Loader

TARGETS = {
    "tensorrt": "ingot.backends.tensorrt",
    "tensorrt-rtx": "ingot.backends.tensorrt_rtx",
    "cuda": "ingot.backends.cuda",
    "cpu": "ingot.backends.cpu",
}
"""The best first: of a file's targets that a machine runs, `ingot.load` takes the one that stands highest here."""


def loader(name: str) -> Loader:
    return cast("Loader", import_module(f"{_home(name)}.load").LOADER)


def builder(name: str) -> Builder:
    return cast("Builder", import_module(f"{_home(name)}.build").BUILDER)


def split(text: str) -> tuple[str, ...]:
    """The names in "cpu,tensorrt-rtx"."""
    return tuple(name.strip() for name in text.split(","))


def check_targets(names: Sequence[str], archs: Sequence[str] = ()) -> None:
    """Raises UsageError for a target that there is not, or that is named twice, and for an architecture that no target
    of them builds for."""
    for name in names:
        _home(name)
    if len(set(names)) < len(names):
        raise UsageError("a target is named twice", fix=f"--target {','.join(dict.fromkeys(names))}")
    known = {name: builder(name).archs for name in names} if archs else {}
    for arch in archs:
        if not any(arch in has for has in known.values()):
            can = [f"{name} builds for {', '.join(has)}" for name, has in known.items() if has]
            raise UsageError(
                f"there is no architecture '{arch}' for {', '.join(names)}",
                fix=f"--arch with some of: {'; '.join(can)}" if can else "--target tensorrt-rtx, which takes --arch",
            )


EMIT = "--emit DIR writes what another machine needs to finish the build"


def check_buildable(names: Sequence[str]) -> None:
    """Raises RequirementError where this machine lacks what building one of the targets takes."""
    for name in names:
        backend = loader(name)
        lacking = backend.unmet(Target(name, {}, backend.build_needs), this_machine())
        if lacking:
            needs = "".join(f"\n  {each.requirement}, found {each.found}" for each in lacking)
            fixes = [each.fix for each in lacking[:1]] + ([EMIT] if name == "tensorrt" else [])
            raise RequirementError(f"building target {name} needs{needs}", fix="; or ".join(fixes))


def _home(name: str) -> str:
    if name not in TARGETS:
        raise UsageError(f"there is no target '{name}'", fix=f"one of: {', '.join(TARGETS)}")
    return TARGETS[name]
