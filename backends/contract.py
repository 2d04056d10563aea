"""The contract between the compiler and a target: what a backend's build.py and load.py offer.

A backend is a folder. Its build.py has a class that fits `Builder`, its load.py one that fits `Loader`;
`ingot.backends.targets` lists them. Production imports load.py alone, so this module imports neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ingot.file.header import Target
from ingot.machine import Machine, Unmet

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ingot.file.read import EngineFile
    from ingot.file.write import Part


@dataclass(frozen=True, slots=True)
class Yes:
    """The target runs this node; `how` is the row of the coverage table ("ONNX Runtime kernel")."""

    how: str


@dataclass(frozen=True, slots=True)
class No:
    """The target does not run this node, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Covered:
    """One row of a coverage table: operator sets `low` to `high` (None: all later ones) of an operator, and how."""

    operator: str
    low: int
    high: int | None
    dtypes: tuple[str, ...]
    how: str


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the user said that a build may depend on."""

    threads: int


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gives: the target's entry in the header, and its members in the order they are to lie in the file.

    Two targets that give a part of the same name share one member; its bytes must be equal.
    """

    target: Target
    parts: Sequence[Part]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Builder(Protocol):
    """The compile side of a target."""

    name: str

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """`imports` maps a domain to the version of its operator set, which a node in a body cannot tell by itself."""
        ...

    def coverage(self) -> Sequence[Covered]:
        """Everything that `supports` says yes to, in alphabetical order."""
        ...

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Lowers a copy of the graph structure (weights shared) and writes it as parts; `model` stays as it is."""
        ...


class Session(Protocol):
    """A target ready to run. Safe to call from many threads at once."""

    def run(self, inputs: Sequence[np.ndarray[Any, Any]]) -> Sequence[np.ndarray[Any, Any]]:
        """Arrays in the order of the signature's inputs, contiguous and of the declared dtype; outputs likewise."""
        ...

    def close(self) -> None: ...


class Loader(Protocol):
    """The production side of a target."""

    name: str
    needs: Mapping[str, str]
    """What every engine of the target needs of a machine, in the form of `Target.needs`."""

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        """What this machine lacks, from the header alone, importing nothing heavy; empty: it runs."""
        ...

    def load(self, file: EngineFile, target: Target, *, threads: int) -> Session: ...
