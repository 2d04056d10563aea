"""Whether this machine can run an engine file, from the header alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ingot.backends.targets import TARGETS, loader
from ingot.errors import FormatError, UsageError
from ingot.file.header import Header, Target
from ingot.file.read import AGAIN, read_header
from ingot.machine import Unmet, this_machine
from ingot.version import __version__


class TargetCheck(NamedTuple):
    """One target of a file, and what it needs that this machine lacks."""

    name: str
    unmet: tuple[Unmet, ...]

    @property
    def runs(self) -> bool:
        return not self.unmet


class CheckReport(NamedTuple):
    """The targets of a file in the order in which `ingot.load` tries them."""

    path: str
    targets: tuple[TargetCheck, ...]
    header: Header

    @property
    def runs(self) -> bool:
        """Whether any target does. Whether the file was verified is `header.verification`'s to say."""
        return any(target.runs for target in self.targets)


def check_file(path: str | os.PathLike[str], *, target: str | None = None) -> CheckReport:
    """Looks at every target, or at the one named; no weight is read and no inference library is imported.

    Raises UsageError where there is no such file or target, FormatError where the header is not one.
    """
    with naming(os.fspath(path)):
        header = read_header(path)
        return CheckReport(os.fspath(path), check_targets(header, target), header)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """FormatErrors raised inside name the file and what to type, where what raised them knows neither."""
    try:
        yield
    except FormatError as error:
        if error.where and error.fix:
            raise
        raise FormatError(error.what, where=error.where or path, fix=error.fix or AGAIN) from error


def check_targets(header: Header, name: str | None = None, *, allow_code: bool = True) -> tuple[TargetCheck, ...]:
    """Of `targets_in_order`. Raises UsageError where the file has no target `name`."""
    chosen = targets_in_order(header, name)
    return tuple(TargetCheck(target.name, tuple(_unmet(target, allow_code))) for target in chosen)


def targets_in_order(header: Header, name: str | None = None) -> list[Target]:
    """The file's targets, or those called `name`, as `ingot.load` tries them: the best first, not the file's first.

    Raises UsageError where there is none.
    """
    chosen = [target for target in header.targets if name in (None, target.name)]
    if not chosen:
        has = ", ".join(target.name for target in header.targets) or "none"
        raise UsageError(
            f"engine '{header.name}' has no target '{name}'; it has {has}", fix=f"ingot compile MODEL --target {name}"
        )
    return sorted(chosen, key=_place)


def _place(target: Target) -> int:
    """The best first; what only a newer Ingot knows is taken for the best."""
    return list(TARGETS).index(target.name) if target.name in TARGETS else -1


def _unmet(target: Target, allow_code: bool) -> list[Unmet]:
    if target.name not in TARGETS:
        needs = f"a version of Ingot that knows the target {target.name}"
        return [Unmet(needs, f"Ingot {__version__}", "pip install --upgrade ingot-compiler")]
    if "code" in target.needs and not allow_code:
        what = f"code from the file to be run ({target.needs['code']:.80})"
        return [Unmet(what, "allow_code=False", "ingot.load(path, allow_code=True), if you trust the file")]
    return loader(target.name).unmet(target, this_machine())
