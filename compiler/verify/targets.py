"""Holds every target of a file to eager: the engine where it runs here, what stands in for it where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ingot.backends.contract import Built, Session, UnprovenError
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


Opened = tuple[str, Callable[[], Session]]
"""What a session is, in words, and what opens it."""


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


@dataclass(frozen=True, slots=True)
class Holding:
    """All that was held to eager, and in sentences what could not be."""

    held: tuple[Held, ...] = ()
    unproven: tuple[str, ...] = ()


def hold_targets(
    file: EngineFile, built: Sequence[Built], measure: Measure, *, threads: int, progress: Callable[[str], None]
) -> Holding:
    """Every target of a file, in its order. Raises VerificationError as `hold_target` does."""
    each = [
        hold_target(target.name, _sessions(file, target, one, threads), measure, progress)
        for target, one in zip(file.header.targets, built, strict=True)
    ]
    return Holding(
        tuple(held for one in each for held in one.held), tuple(text for one in each for text in one.unproven)
    )


def hold_target(name: str, sessions: Iterable[Opened], measure: Measure, progress: Callable[[str], None]) -> Holding:
    """Holds every session of one target, at least one.

    Raises VerificationError where something does not hold, or where nothing of the target can be run on this machine.
    """
    held: list[Held] = []
    unproven: list[str] = []
    for what, open_session in sessions:
        named = f"{name}, {what}"
        try:
            held.append(Held(name, what, _measured(measure, open_session, named, progress)))
        except UnprovenError as error:
            unproven.append(f"{named}: not held to the model, {error.what}")
    if not held:
        raise VerificationError(
            f"nothing of target {name} can be run on this machine, so nothing shows that it is right",
            fix=f"compile where {name} runs, or --verify off, and `ingot verify` there",
        )
    return Holding(tuple(held), tuple(unproven))


def _measured(
    measure: Measure, open_session: Callable[[], Session], what: str, progress: Callable[[str], None]
) -> Accuracy:
    with closing(open_session()) as session:
        try:
            return measure(session, lambda case: progress(f"{what}: {case}"))
        except VerificationError as error:
            raise VerificationError(f"{what}: {error.what}", where=error.where, fix=error.fix) from error


def _sessions(file: EngineFile, target: Target, built: Built, threads: int) -> Iterator[Opened]:
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
