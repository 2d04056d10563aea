"""Holds every target of a file to eager: the engine where it runs here, what stands in for it where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ingot.backends.contract import Built, Session
from ingot.backends.targets import loader
from ingot.errors import VerificationError
from ingot.file.header import Header, Target
from ingot.file.read import EngineFile
from ingot.machine import this_machine
from ingot.verify.verify import Accuracy

LARGE_BYTES = 256 << 20
"""Weights from here on are verified without the copy that ONNX Runtime makes of them for speed."""

ENGINE = "the engine itself"

Measure = Callable[[Session, Callable[[str], None]], Accuracy]
"""Runs every case on a session and judges it; told where to report progress. Raises VerificationError."""


@dataclass(frozen=True, slots=True)
class Held:
    """What of a target was held to eager, and what that measured. `ran`: `what` is ENGINE, on this machine."""

    target: str
    what: str
    accuracy: Accuracy

    @property
    def ran(self) -> bool:
        return self.what.startswith(ENGINE)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        worst = self.accuracy.worst.to_json()
        return {"target": self.target, "what": self.what, "ran": self.ran, "worst": worst}


def hold_targets(
    file: EngineFile, built: Sequence[Built], measure: Measure, *, threads: int, progress: Callable[[str], None]
) -> list[Held]:
    """At least one for each target, in the file's order.

    Raises VerificationError where something does not hold, or where nothing of a target can be run on this machine.
    """
    held = []
    for target, each in zip(file.header.targets, built, strict=True):
        tried = [
            Held(target.name, what, _measured(measure, open_session, f"{target.name}, {what}", progress))
            for what, open_session in _sessions(file, target, each, threads)
        ]
        if not tried:
            raise VerificationError(
                f"nothing of target {target.name} can be run on this machine, so nothing shows that it is right",
                fix=f"compile where {target.name} runs, or --verify off, and `ingot verify` there",
            )
        held += tried
    return held


def _measured(
    measure: Measure, open_session: Callable[[], Session], what: str, progress: Callable[[str], None]
) -> Accuracy:
    with closing(open_session()) as session:
        try:
            return measure(session, lambda case: progress(f"{what}: {case}"))
        except VerificationError as error:
            raise VerificationError(f"{what}: {error.what}", where=error.where, fix=error.fix) from error


def _sessions(
    file: EngineFile, target: Target, built: Built, threads: int
) -> Iterator[tuple[str, Callable[[], Session]]]:
    """The engine itself where this machine runs it; what the build offers in its place besides."""
    backend = loader(target.name)
    if not backend.unmet(target, this_machine()):
        lean = _lean(target, file.header)
        what = ENGINE if lean is target else f"{ENGINE}, without the copy of the weights that it packs at load"
        yield what, lambda: backend.load(file, lean, threads=threads)
    for proof in built.proofs:
        yield proof.what, proof.open


def _lean(target: Target, header: Header) -> Target:
    weights = header.members.get(target.members.get("weights", ""))
    if target.name != "cpu" or weights is None or weights.size_bytes < LARGE_BYTES:
        return target
    config = {**target.options.get("config", {}), "session.disable_prepacking": "1"}
    return target._replace(options={**target.options, "config": config})
