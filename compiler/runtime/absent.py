"""Stands where a session would, in an engine that was compiled for other machines than this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from ingot.errors import RequirementError
from ingot.runtime.check import TargetCheck


class Absent:
    """A session that says what this machine lacks."""

    def __init__(self, checks: Sequence[TargetCheck]) -> None:
        self._checks = checks

    def run(self, inputs: Sequence[Any]) -> NoReturn:
        """Raises RequirementError."""
        reasons = "".join(f"\n  target {check.name}: {unmet}" for check in self._checks for unmet in check.unmet)
        raise RequirementError(
            f"the engine was compiled for another machine than this one{reasons}",
            fix="engine.save(path), and ingot.load(path) there; target='cpu,…' compiles one for here too",
        )

    def own_stream(self) -> NoReturn:
        """Raises RequirementError."""
        self.run(())

    def run_device(self, inputs: Sequence[Any], place: object, stream: int | None = None) -> NoReturn:
        """Raises RequirementError."""
        self.run(inputs)

    def close(self) -> None:
        """Nothing is held."""
