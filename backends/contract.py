"""The contract between the compiler and a target: what a backend's build.py and load.py offer.

A backend is a folder. Its build.py has a class that fits `Builder`, its load.py one that fits `Loader`;
`ingot.backends.targets` lists them. Production imports load.py alone, so this module imports neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ingot.errors import BuildError
from ingot.file.header import Target
from ingot.machine import Machine, Unmet

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnx_ir as ir

    from ingot.file.read import EngineFile
    from ingot.file.write import Part
    from ingot.signature import Signature


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


def _silent(detail: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a build may depend on besides the graph.

    name       the model's, for files that a failed build leaves to look at
    folder     an empty folder for what is on its way to the engine file; the caller removes it once that is written
    signature  the inputs and outputs, and the bounds of their dims
    sizes      the dims' sizes in the example call: what a target that tunes for one size tunes for
    archs      the GPU architectures asked for ("sm_89"); empty: the GPU of this machine
    progress   told what the build is at
    """

    threads: int
    folder: Path
    signature: Signature
    name: str = "model"
    sizes: Mapping[str, int] = field(default_factory=dict)
    archs: tuple[str, ...] = ()
    progress: Callable[[str], None] = _silent


class UnprovenError(BuildError):
    """A proof that cannot be had for this model; the text says why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What is held to eager where the built thing itself cannot run on this machine.

    `what` says so in the report: "the lowered graph, on ONNX Runtime". The session of `open` takes and gives what the
    target's own would. Opening or running it raises UnprovenError where it shows nothing of this model.
    """

    what: str
    open: Callable[[], Session]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gives: the target's entry in the header, and its members in the order they are to lie in the file.

    Two targets that give a part of the same name share one member; its bytes must be equal. `proofs` stay good until
    the folder of the build is removed; `notes` go to the record.
    """

    target: Target
    parts: Sequence[Part]
    notes: Mapping[str, Any] = field(default_factory=dict)
    proofs: Sequence[Proof] = ()


class Builder(Protocol):
    """The compile side of a target."""

    name: str
    archs: tuple[str, ...]
    """The GPU architectures that `BuildOptions.archs` may name; none where the target asks for no GPU."""

    coverage_source: str
    """What the table of `coverage` was made from, and how far it was tried."""

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """`imports` maps a domain to the version of its operator set, which a node in a body cannot tell by itself."""
        ...

    def coverage(self) -> Sequence[Covered]:
        """Everything that `supports` says yes to, in alphabetical order."""
        ...

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Lowers a copy of the graph structure (weights shared) and writes it as parts; `model` stays as it is.

        Raises UnsupportedOperatorError with every node that the target does not run and its line, BuildError where
        the build itself fails.
        """
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
    build_needs: Mapping[str, str]
    """What building one needs of a machine, in the same form, besides the compiler itself."""

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        """What this machine lacks, from the header alone, importing nothing heavy; empty: it runs."""
        ...

    def load(self, file: EngineFile, target: Target, *, threads: int) -> Session: ...
