"""The runner: what a pass claims, what it leaves behind, and what the report says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ingot.errors import PassError
from ingot.passes.contract import Notes, Pass, run_passes
from ingot.passes.drop_identity import DropIdentity
from ingot.passes.drop_unused import DropUnused

GRAPH = "g (float[B] x) => (float[B] y) { a = Relu(x)  b = Identity(a)  y = Neg(b) }"


class Does(Pass):
    """what the test says -> done"""

    def __init__(self, edit: Callable[[ir.Model], None], claim: bool) -> None:
        self.edit = edit
        self.claim = claim

    def run(self, model: ir.Model, notes: Notes) -> bool:
        self.edit(model)
        notes.decline(model.graph[0], "a reason")
        return self.claim


def test_a_pass_is_named_as_its_file():
    assert DropIdentity().name == "drop_identity"


def test_the_report(build):
    reports = run_passes(build(GRAPH), [DropIdentity(), DropUnused(), Does(lambda model: None, False)])
    assert [(report.name, report.nodes_before, report.nodes_after) for report in reports] == [
        ("drop_identity", 3, 2),
        ("drop_unused", 2, 2),
        ("does", 2, 2),
    ]
    assert reports[0].rewrites == 1
    assert reports[2].declined == ("Relu a: a reason",)


def test_a_false_claim(build):
    with pytest.raises(PassError, match="does says it changed the graph and did not"):
        run_passes(build(GRAPH), [Does(lambda model: None, True)])


def test_a_silent_change(build):
    def edit(model: ir.Model) -> None:
        model.graph[0].op_type = "Exp"

    with pytest.raises(PassError, match="does changed the graph and did not say so"):
        run_passes(build(GRAPH), [Does(edit, False)])


def test_a_silent_change_after_an_honest_pass(build):
    def edit(model: ir.Model) -> None:
        model.graph[0].op_type = "Exp"

    with pytest.raises(PassError, match="did not say so"):
        run_passes(build(GRAPH), [DropIdentity(), Does(edit, False)])


def test_a_broken_graph(build):
    def edit(model: ir.Model) -> None:
        model.graph.remove(model.graph[0])

    with pytest.raises(PassError, match="reads a, which nothing before it produces") as error:
        run_passes(build(GRAPH), [Does(edit, True)])
    assert "module.b" in str(error.value)


def test_a_changed_interface(build):
    def edit(model: ir.Model) -> None:
        model.graph.outputs[0].name = "z"

    with pytest.raises(PassError, match="changed the graph's outputs from y FLOAT to z FLOAT"):
        run_passes(build(GRAPH), [Does(edit, True)])


def test_a_wrong_rewrite_is_caught(rewrites):
    def edit(model: ir.Model) -> None:
        model.graph[0].op_type = "Abs"

    with pytest.raises(AssertionError, match="numbers differ"):
        rewrites(Rewrites(edit), GRAPH)


def test_a_rewrite_that_is_off_by_one_rounding_is_caught(rewrites):
    graph = "g (float[B, 4] x) => (float[B, 4] y) <float third = {0.3}> { a = Mul(x, third)  y = Mul(a, third) }"

    def edit(model: ir.Model) -> None:
        model.graph.initializers["third"].const_value = ir.tensor(np.nextafter(np.float32(0.3), np.float32(1)))

    with pytest.raises(AssertionError, match="numbers differ"):
        rewrites(Rewrites(edit), graph)


def test_a_rewrite_that_loses_its_origin_is_caught(rewrites):
    def edit(model: ir.Model) -> None:
        model.graph[1].metadata_props.clear()
        model.graph[1].op_type = "Abs"

    with pytest.raises(AssertionError, match="lost its origin"):
        rewrites(Rewrites(edit), GRAPH)


class Rewrites(Does):
    """the edit -> made, and counted"""

    def __init__(self, edit: Callable[[ir.Model], None]) -> None:
        super().__init__(edit, True)

    def run(self, model: ir.Model, notes: Notes) -> bool:
        notes.rewrites = 1
        return super().run(model, notes)
