"""What every benchmark is made of: bars, tables, and runs of ours and a peer's that take turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

EQUAL = 0.97
"""A speed ratio from here on counts as equal: what one machine shows for twice the same program."""

ABSOLUTE_ROUNDS = 10
"""An absolute bar takes the best of ten: what the machine can do, and not what else it was doing."""

SAMPLE_SECONDS = 0.02
"""A sample is at least this long, so that the clock and the other side's last moments do not count in it."""


class Unmeasured(Exception):
    """A bar could not be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise. `better` says on which side of `target` it is kept; `equal` widens a ratio's target by EQUAL."""

    name: str
    better: Literal["least", "most"]
    target: float
    unit: str = ""
    equal: bool = False

    def holds(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.better == "most":
            return value <= self.target
        return value >= (self.target * EQUAL if self.equal else self.target)

    def line(self, value: float | None, reason: str = "") -> str:
        """ "bar load_time 41.25ms needs <=80ms holds"; without a value, unmeasured and why."""
        sign = "<=" if self.better == "most" else ">="
        needs = f"{sign}{_number(self.target)}{self.unit}"
        shown = "-" if value is None else f"{_number(value)}{self.unit}"
        words = ["bar", self.name, shown, "needs", needs, self.verdict(value), *reason.split()]
        return " ".join(words)

    def verdict(self, value: float | None) -> Literal["holds", "short", "unmeasured"]:
        if value is None:
            return "unmeasured"
        return "holds" if self.holds(value) else "short"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a title, as text; `note` says how to read it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(str(line[column])) for line in lines) for column in range(len(self.head))]
        shown = [
            "  ".join(
                str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *(f"  {line}" for line in shown), *([f"  {self.note}"] if self.note else [])])


@dataclass(slots=True)
class Result:
    """What a benchmark found: `values` by a bar's name, `data` whatever else belongs in the JSON."""

    tables: list[Table] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`run` may raise Unmeasured; a bar that it gives no value for is unmeasured."""

    name: str
    bars: Sequence[Bar]
    run: Callable[[], Result]


def take_turns(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """`rounds` times each of `runs` in turn (A B A B …), by name what each gave: seconds, mostly."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def sampler(run: Callable[[], object], *, sample_seconds: float = SAMPLE_SECONDS) -> Callable[[], float]:
    """A function that gives the seconds of one `run`, as the mean over a sample.

    Before each sample one run goes uncounted: caches and thread pools are then this side's own.
    """
    run()
    once = _seconds(run, 1)
    count = max(1, math.ceil(sample_seconds / max(once, 1e-9)))

    def sample() -> float:
        run()
        return _seconds(run, count) / count

    return sample


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """A function that gives the seconds of one `run`: for runs so long that nothing before them counts."""
    return lambda: _seconds(run, 1)


def _seconds(run: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - began


def paired_speedup(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times faster ours is: the median over rounds of theirs / ours of the same round."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def milliseconds(seconds: Sequence[float]) -> str:
    """ "12.34 (11.92)": the median and, in brackets, the least."""
    return f"{_number(statistics.median(seconds) * 1e3)} ({_number(min(seconds) * 1e3)})"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def bar_lines(bars: Sequence[Bar], values: Mapping[str, float], reason: str = "no value") -> list[str]:
    """One line per bar; `reason` is why a bar without a value has none."""
    return [bar.line(values.get(bar.name), "" if bar.name in values else reason) for bar in bars]


def _number(value: float) -> str:
    """Four digits, so that a value just short of its target shows it."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:.0f}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
