"""Where a node came from survives, in a line, without the machine's folders."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from ingot.ir.provenance import compact_provenance, copy_provenance, module_path, source_line, where

LINE = "return torch.relu(self.linear(x))"


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.sum(0)


@pytest.fixture
def exported() -> ir.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Model().eval(), (torch.ones(2, 4),), strict=False)
        translated = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert translated is not None
    return translated.model


def node(model: ir.Model, operator: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == operator)


def test_compact_says_the_same_in_less(exported):
    before = [(module_path(node), source_line(node)) for node in exported.graph]
    verbose_bytes = len(ir.to_proto(exported).SerializeToString())
    compact_provenance(exported)
    assert [(module_path(node), source_line(node)) for node in exported.graph] == before
    assert len(ir.to_proto(exported).SerializeToString()) < verbose_bytes / 2
    text = str(ir.to_proto(exported))
    assert "pkg.torch" not in text
    assert str(Path(__file__).parent) not in text
    assert set(node(exported, "Relu").metadata_props) == {"ingot.module", "ingot.source"}


def test_module_and_line(exported):
    relu, total = node(exported, "Relu"), node(exported, "ReduceSum")
    assert module_path(relu) == "blocks.0"
    assert module_path(total) == ""
    number = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.strip() == LINE)
    assert source_line(relu) == f"test_provenance.py:{number}: {LINE}"
    # The line inside torch.nn.Linear is torch's: the user's is the one that called it.
    linear = next(node for node in exported.graph if module_path(node) == "blocks.1.linear")
    assert source_line(linear) == f"test_provenance.py:{number}: {LINE}"
    assert where(relu) == f"Relu -> {relu.outputs[0].name} in blocks.0 (test_provenance.py:{number}: {LINE})"


def test_paths_begin_at_the_root(exported):
    compact_provenance(exported, root="blocks")
    assert module_path(node(exported, "Relu")) == "0"


def test_compact_twice_changes_nothing(exported):
    compact_provenance(exported)
    once = str(ir.to_proto(exported))
    compact_provenance(exported)
    assert str(ir.to_proto(exported)) == once


def test_a_windows_path_and_a_frame_without_code():
    written = ir.Node("", "Relu", [ir.val("x")])
    written.metadata_props["pkg.torch.onnx.stack_trace"] = (
        'File "C:\\Users\\ann\\net.py", line 7, in forward\n'
        '  File "C:\\py\\Lib\\site-packages\\torch\\nn\\linear.py", line 9, in forward\n    return F.linear(x)'
    )
    assert source_line(written) == "net.py:7: "


def test_a_node_that_comes_from_nowhere():
    bare = ir.Node("", "Relu", [ir.val("x")], outputs=[ir.val("y")])
    assert (module_path(bare), source_line(bare), where(bare)) == ("", "", "Relu -> y")


def test_copy_keeps_what_the_node_says_of_itself():
    old, new = ir.Node("", "Relu", [ir.val("x")]), ir.Node("", "Relu", [ir.val("x")])
    old.metadata_props.update({"ingot.module": "a", "ingot.source": "m.py:1: x"})
    new.metadata_props["ingot.module"] = "b"
    copy_provenance(old, new)
    assert new.metadata_props == {"ingot.module": "b", "ingot.source": "m.py:1: x"}
