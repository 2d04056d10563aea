"""The contract of a pass, and the runner that holds every pass to it."""

from __future__ import annotations

import abc
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.errors import PassError
from ingot.ir.checks import Interface, check_model, fingerprint


@dataclass(slots=True)
class Notes:
    """What a pass did and why it declined; the pipeline hands one to every pass and the report shows it."""

    rewrites: int = 0
    declined: list[str] = field(default_factory=list)

    def decline(self, node: ir.Node, reason: str) -> None:
        self.declined.append(f"{node.op_type} {node.name or node.outputs[0].name}: {reason}")


class Pass(abc.ABC):
    """One rewrite. The docstring's first line is the rewrite itself; then shapes, `exact` or what rounding changes,
    and when it declines. A match is by dataflow, constants and shapes, never by names.

    A rewrite keeps graph inputs and outputs (names, dtypes, order), gives a replaced value's name to its replacement,
    and copies the provenance of the node it replaces (ingot.ir.provenance).
    """

    @property
    def name(self) -> str:
        """The file's name: DropIdentity -> drop_identity."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @abc.abstractmethod
    def run(self, model: ir.Model, notes: Notes) -> bool:
        """Rewrites `model` in place; returns whether it changed."""


@dataclass(frozen=True, slots=True)
class PassReport:
    """One pass of one compile: nodes before and after, and why near misses were declined."""

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    declined: tuple[str, ...]


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> list[PassReport]:
    """Runs `passes` in order and checks the graph after each.

    Raises PassError, naming the pass, when a pass leaves a broken graph, changes the graph's interface, or says
    something else about having changed the graph than the graph does.
    """
    reports = []
    before, interface = fingerprint(model), Interface.of(model)
    for step in passes:
        nodes_before = model.graph.num_nodes()
        notes = Notes()
        claimed = step.run(model, notes)
        after = fingerprint(model)
        changed, before = after != before, after
        if claimed != changed:
            said = "says it changed the graph and did not" if claimed else "changed the graph and did not say so"
            raise PassError(f"pass {step.name} {said}", fix="return True from run() exactly when a rewrite was made")
        if changed:
            check_model(model, after=step.name, interface=interface)
            interface = Interface.of(model)
        reports.append(
            PassReport(step.name, notes.rewrites, nodes_before, model.graph.num_nodes(), tuple(notes.declined))
        )
    return reports
