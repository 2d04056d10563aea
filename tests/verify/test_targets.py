"""Every target is held to eager, by the engine or by what stands in for it; a target that nothing shows is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ingot.backends.contract import Built, Proof, Session, UnprovenError
from ingot.errors import VerificationError
from ingot.file.header import Header, Target
from ingot.machine import Machine, Unmet
from ingot.signature import Signature
from ingot.verify import targets
from ingot.verify.compare import OutputAccuracy, measure
from ingot.verify.verify import Accuracy

Array = np.ndarray[Any, Any]


class Given:
    """A session that gives what it was made with."""

    def __init__(self, output: Array) -> None:
        self.output = output
        self.closed = False

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        del inputs
        return [self.output]

    def close(self) -> None:
        self.closed = True


class FakeLoader:
    name = "gpu"

    def __init__(self, session: Session, *, runs: bool) -> None:
        self.session, self.runs = session, runs

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        return [] if self.runs else [Unmet("a GPU", "none", "another machine")]

    def load(self, file: object, target: Target, *, threads: int) -> Session:
        return self.session


class File:
    """As much of an engine file as is asked for."""

    def __init__(self, target: Target) -> None:
        empty = Signature((), (), (), {}, {"tuple": []})
        self.header = Header("model", empty, (target,), "full", "fast", {})


EXPECTED = np.arange(4, dtype=np.float32)


def held_to_expected(session: Session, tell: Callable[[str], None]) -> Accuracy:
    tell("user")
    found = OutputAccuracy("y", "float32", "user", measure(EXPECTED, session.run([])[0], "float32"))
    if not found.measure.holds:
        raise VerificationError("y is wrong", where="the line", fix="a better engine")
    return Accuracy((found,), (), None)


def hold(
    monkeypatch: pytest.MonkeyPatch, loader: FakeLoader, proofs: Sequence[Proof], told: list[str] | None = None
) -> targets.Holding:
    target = Target("gpu", {}, {})
    monkeypatch.setattr(targets, "loader", lambda name: loader)
    built = Built(target, [], proofs=proofs)
    tell = [].append if told is None else told.append
    file: Any = File(target)
    return targets.hold_targets(file, [built], held_to_expected, threads=1, progress=tell)


def test_an_engine_that_runs_here_is_held_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    session, told = Given(EXPECTED), list[str]()
    (held,) = hold(monkeypatch, FakeLoader(session, runs=True), [], told).held
    assert held.what == targets.ENGINE
    assert held.ran
    assert session.closed
    assert told == ["gpu, the engine itself: user"]


def test_what_does_not_run_here_is_shown_by_every_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Given(EXPECTED), Given(EXPECTED)
    proofs = [Proof("the graph", lambda: first), Proof("the network", lambda: second)]
    held = hold(monkeypatch, FakeLoader(Given(EXPECTED), runs=False), proofs).held
    assert [(item.what, item.ran) for item in held] == [("the graph", False), ("the network", False)]
    assert first.closed
    assert second.closed
    assert held[0].to_json()["worst"]["name"] == "y"


def test_one_proof_that_fails_fails_the_target_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Given(EXPECTED + 1)
    proofs = [Proof("the graph", lambda: Given(EXPECTED)), Proof("the network", lambda: wrong)]
    with pytest.raises(VerificationError, match="gpu, the network: y is wrong") as caught:
        hold(monkeypatch, FakeLoader(Given(EXPECTED), runs=False), proofs)
    assert caught.value.where == "the line"
    assert caught.value.fix == "a better engine"
    assert wrong.closed


def test_nothing_shown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VerificationError, match="nothing of target gpu can be run on this machine"):
        hold(monkeypatch, FakeLoader(Given(EXPECTED), runs=False), [])


def test_a_proof_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> Session:
        raise UnprovenError("the network has a layer that cannot be evaluated")

    proofs = [Proof("the graph", lambda: Given(EXPECTED)), Proof("the network", without)]
    holding = hold(monkeypatch, FakeLoader(Given(EXPECTED), runs=False), proofs)
    assert [item.what for item in holding.held] == ["the graph"]
    (said,) = holding.unproven
    assert said == "gpu, the network: not held to the model, the network has a layer that cannot be evaluated"
    with pytest.raises(VerificationError, match="nothing of target gpu"):
        hold(monkeypatch, FakeLoader(Given(EXPECTED), runs=False), proofs[1:])
