"""From a file to an engine: checked, the best target that runs here chosen, loaded, and held to its vectors if new."""

from __future__ import annotations

import os
from collections.abc import Callable

from ingot.backends.targets import loader
from ingot.errors import EngineError, RequirementError, UnverifiedError, UsageError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.machine import MOST_THREADS, default_threads
from ingot.runtime.check import TargetCheck, check_targets, naming, targets_in_order
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

    target            the one to run; by default the best of the file's that this machine can run: tensorrt,
                      tensorrt-rtx, cuda, cpu, in this order. `engine.why` says why it is the one
    threads           of one run, 1 to 1024; by default the least of affinity, cgroup quota and physical cores
    strict            every digest is checked, the weights' too
    allow_code        lets a target run that brings machine code in the file: only for files you trust
    allow_unverified  opens an engine that was compiled with --verify off

    A target whose machine code has never run on a GPU is held to the file's self-test vectors first.

    Raises UsageError (no such file or target), FormatError (damaged, newer, or no engine), RequirementError (this
    machine lacks something; says what), UnverifiedError, EngineError (a target's runtime refuses it, or the self-test
    vectors do not hold).
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
        return engine_of(file, target, threads=threads, allow_code=allow_code)
    except BaseException:
        file.close()
        raise


def engine_of(
    file: EngineFile,
    name: str | None,
    *,
    threads: int,
    allow_code: bool = False,
    on_close: Callable[[], None] | None = None,
) -> Engine:
    """The engine of one target of an open file, which it closes with itself, and `on_close` called then.

    Raises as `open_engine` does.
    """
    with naming(file.path):
        chosen, why = _choose(file, name, allow_code)
        session = loader(chosen.name).load(file, chosen, threads=threads)
        engine = Engine(file, chosen, session, threads=threads, why=why, on_close=on_close)
    if chosen.options.get("proven", True) is not True:
        _prove(engine)
    return engine


def _choose(file: EngineFile, name: str | None, allow_code: bool) -> tuple[Target, str]:
    """The best target that runs here, and why it is the one. Raises RequirementError where none does."""
    checks = check_targets(file.header, name, allow_code=allow_code)
    for target, check in zip(targets_in_order(file.header, name), checks, strict=True):
        if check.runs:
            return target, _why(check, checks, name)
    reasons = "".join(f"\n  target {check.name}: {unmet}" for check in checks for unmet in check.unmet)
    fixes = dict.fromkeys(unmet.fix for check in checks for unmet in check.unmet)
    raise RequirementError(
        f"this machine lacks what engine '{file.header.name}' needs{reasons}",
        where=file.path,
        fix="; ".join(fixes),
    )


def _why(chosen: TargetCheck, checks: tuple[TargetCheck, ...], name: str | None) -> str:
    """ "cpu: tensorrt-rtx needs a GPU of sm_89, found no NVIDIA driver"."""
    if name is not None:
        return f"{chosen.name}: asked for"
    better = checks[: checks.index(chosen)]
    if better:
        lacks = (f"{check.name} needs {check.unmet[0].requirement}, found {check.unmet[0].found}" for check in better)
        return f"{chosen.name}: {'; '.join(lacks)}"
    return f"{chosen.name}: {'the only one in the file' if len(checks) == 1 else 'the best of those in the file'}"


def _prove(engine: Engine) -> None:
    """Holds an engine to the vectors in its file, and closes it where it does not."""
    if engine.header.selftest is None:
        engine.why += "; it never ran on a GPU before, and the file has no self-test vectors to hold it to"
        return
    # Only what was never proven pays for the import.
    from ingot.runtime.selftest import run_selftest

    try:
        results = run_selftest(engine)
        wrong = next((result for result in results if not result.measure.holds), None)
        if wrong is not None:
            found = wrong.measure
            needed = "must be equal" if found.needed_db is None else f"needs {found.needed_db:.0f} dB"
            raise EngineError(
                f"target {engine.target} does not compute what the model does: output '{wrong.output}' has "
                f"{found.mismatch or f'{found.worst_db:.1f} dB'}, and {needed}",
                where=f"{engine.path}, self-test case '{wrong.case}'",
                fix="another of the file's targets: ingot.load(path, target='cpu')",
            )
    except BaseException:
        engine.close()
        raise
    worst = min((result.measure.worst_db for result in results), default=float("inf"))
    said = "equal" if worst == float("inf") else f"{worst:.0f} dB at worst"
    engine.why += f"; it never ran on a GPU before, and holds the self-test vectors here: {said}"
