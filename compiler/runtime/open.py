"""From a file to an engine: checked, the first target that this machine can run chosen, and loaded."""

from __future__ import annotations

import os

from ingot.backends.targets import loader
from ingot.errors import RequirementError, UnverifiedError, UsageError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.machine import MOST_THREADS, default_threads
from ingot.runtime.check import check_targets, naming
from ingot.runtime.engine import Engine


def open_engine(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    threads: int | None = None,
    strict: bool = False,
    allow_code: bool = False,
    allow_unverified: bool = False,
) -> Engine:
    """Opens an engine file and loads one of its targets.

    target            the one to run; by default the file's first that this machine can run
    threads           of one run, 1 to 1024; by default the least of affinity, cgroup quota and physical cores
    strict            every digest is checked, the weights' too
    allow_code        lets a target run that brings machine code in the file: only for files you trust
    allow_unverified  opens an engine that was compiled with --verify off

    Raises UsageError (no such file or target), FormatError (damaged, newer, or no engine), RequirementError (this
    machine lacks something; says what), UnverifiedError.
    """
    threads = default_threads() if threads is None else threads
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise UsageError(
            f"threads is {threads!r}, which is no count of threads from 1 to {MOST_THREADS}",
            fix="leave it out, or threads=1",
        )
    file = EngineFile.open(path, strict=strict)
    try:
        if file.header.verification == "off" and not allow_unverified:
            raise UnverifiedError(
                "the engine was compiled with --verify off: nothing says that it computes what the model does",
                where=str(path),
                fix="compile again without --verify off, or ingot.load(path, allow_unverified=True)",
            )
        with naming(file.path):
            chosen = _choose(file, target, allow_code)
            return Engine(file, chosen, loader(chosen.name).load(file, chosen, threads=threads), threads=threads)
    except BaseException:
        file.close()
        raise


def _choose(file: EngineFile, name: str | None, allow_code: bool) -> Target:
    checks = check_targets(file.header, name, allow_code=allow_code)
    for target, check in zip(_named(file, name), checks, strict=True):
        if check.runs:
            return target
    reasons = "".join(f"\n  target {check.name}: {unmet}" for check in checks for unmet in check.unmet)
    fixes = dict.fromkeys(unmet.fix for check in checks for unmet in check.unmet)
    raise RequirementError(
        f"this machine lacks what engine '{file.header.name}' needs{reasons}",
        where=file.path,
        fix="; ".join(fixes),
    )


def _named(file: EngineFile, name: str | None) -> list[Target]:
    return [target for target in file.header.targets if name in (None, target.name)]
