"""A planted fault is found at its own node, with the user's module and line."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ingot.errors import VerificationError
from ingot.frontend.structure import FlatModule, Result, take_apart
from ingot.ir.checks import fingerprint
from ingot.signature import Signature, Tensor
from ingot.verify.draw import Case
from ingot.verify.locate import LARGE_WEIGHT_BYTES, locate
from ingot.verify.reference import Reference
from ingot.verify.verify import verify


@pytest.fixture
def encoder(shared_encoder: Any) -> Any:
    return shared_encoder


@pytest.fixture
def exported(translated: Any) -> Any:
    """A graph to plant faults in."""
    return SimpleNamespace(**{**vars(translated), "model": translated.model.clone()})


@pytest.fixture(scope="module")
def translated(shared_encoder: Any) -> Any:
    """The encoder as torch's program and as graph IR, in the user's names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("torch.onnx"), "disabled", True)
        return translate(shared_encoder)


def translate(encoder: Any) -> Any:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    axes = {0: batch, 1: sequence}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = FlatModule(encoder.module, encoder.call, Result())
        program = torch.export.export(flat, tuple(encoder.call.tensors), dynamic_shapes=((axes, axes),), strict=False)
        translated = torch.onnx.export(program, dynamo=True, opset_version=24, optimize=False, verbose=False)
    assert translated is not None
    for value, tensor in zip(translated.model.graph.inputs, encoder.signature.inputs, strict=True):
        value.name = tensor.name
    return SimpleNamespace(
        program=translated.exported_program, model=translated.model, signature=encoder.signature, call=encoder.call
    )


def padded(encoder: Any) -> Any:
    return next(case for case in encoder.cases if case.origin == "padded")


def found(encoder: Any, exported: Any, case: Any = None) -> Any:
    case = case or padded(encoder)
    return locate(exported, exported.model, case, encoder.reference.run(case))


def node(exported: Any, operator: str) -> ir.Node:
    return next(node for node in exported.model.graph if node.op_type == operator)


def forward_line(encoder: Any, text: str) -> str:
    """ "conftest.py:33: the code" of the line of forward that holds `text`."""
    lines, first = inspect.getsourcelines(type(encoder.module).forward)
    index = next(index for index, line in enumerate(lines) if text in line)
    return f"{Path(inspect.getfile(type(encoder.module))).name}:{first + index}: {lines[index].strip()}"


def test_a_right_graph_blames_the_build(encoder: Any, exported: Any) -> None:
    assert encoder.module.words.weight.nbytes >= LARGE_WEIGHT_BYTES
    for case in encoder.cases:
        assert found(encoder, exported, case).kind == "build"


def test_a_wrong_epsilon_is_found_at_its_norm(encoder: Any, exported: Any) -> None:
    norm = node(exported, "LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-6)
    located = found(encoder, exported)
    assert located.kind == "rewrite"
    assert located.operator == "LayerNormalization"
    assert located.value == norm.outputs[0].name
    assert located.module.endswith("norm")
    assert located.source == forward_line(encoder, "self.norm(self.words(input_ids))")
    assert located.sqnr_db is not None
    assert located.sqnr_db < 100


def test_a_dropped_mask_is_found_where_it_was(encoder: Any, exported: Any) -> None:
    masked = node(exported, "Where")
    ir.convenience.replace_all_uses_with(masked.outputs[0], masked.inputs[2])
    replacement, name = masked.inputs[2], masked.outputs[0].name
    exported.model.graph.remove(masked)
    replacement.name = name
    located = found(encoder, exported)
    assert located.kind == "rewrite"
    assert located.value == name


def test_a_fault_in_an_output_alone_is_found_by_position(encoder: Any, exported: Any) -> None:
    graph = exported.model.graph
    wrong = ir.node("Neg", [graph.outputs[1]])
    graph.append(wrong)
    wrong.outputs[0].name, wrong.outputs[0].type = "pooled", graph.outputs[1].type
    graph.outputs[1] = wrong.outputs[0]
    located = found(encoder, exported)
    assert located.kind == "rewrite"
    assert located.operator == "Neg"


def test_a_trace_that_is_not_eager_is_said_so(encoder: Any, exported: Any) -> None:
    case = padded(encoder)
    hidden, pooled, lengths = encoder.reference.run(case)
    located = locate(exported, exported.model, case, [hidden, pooled * np.float32(1.01), lengths])
    assert located is not None
    assert located.kind == "export"
    assert "'pooled'" in str(located)


def test_a_graph_that_cannot_run_alone_is_unlocated(encoder: Any, exported: Any) -> None:
    node(exported, "LayerNormalization").domain = "nobody.has.this"
    exported.model.graph.opset_imports["nobody.has.this"] = 1
    assert found(encoder, exported) is None


def test_the_model_is_left_as_it_is(encoder: Any, exported: Any) -> None:
    before = fingerprint(exported.model)
    found(encoder, exported)
    assert fingerprint(exported.model) == before


class Cancels(torch.nn.Module):
    """A value of some 60 dB by its own rounding, long before the last operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noisy = (x + 1e4) - 1e4
        return torch.tanh(noisy * 0.5 - self.weight)


def test_lawful_noise_takes_no_blame_and_a_swapped_sub_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("torch.onnx"), "disabled", True)
    torch.manual_seed(seed)
    module, x = Cancels().eval(), torch.randn(6, 8)
    call = take_apart(module.forward, (x,), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(FlatModule(module, call, Result()), (x,), strict=False)
        translated = torch.onnx.export(program, dynamo=True, opset_version=24, optimize=False, verbose=False)
    assert translated is not None
    model = translated.model
    tensors = tuple(Tensor(name, "float32", (6, 8)) for name in "xy")
    signature = Signature(tensors[:1], tensors[1:], (), call.trees, {"tensor": 0})
    exported = SimpleNamespace(program=translated.exported_program, model=model, signature=signature, call=call)
    case = Case("user", "user", (x.numpy(),))
    expected = Reference(module, signature, call).run(case)

    add = next(node for node in model.graph if node.op_type == "Add")
    part = np.float32(3333.3)
    parts = {"part": part, "rest": np.float32(1e4) - part}
    values = {name: ir.val(name, const_value=ir.tensor(np.array(value), name=name)) for name, value in parts.items()}
    for value in values.values():
        model.graph.initializers.add(value)
    half = ir.node("Add", [add.inputs[0], values["part"]])
    model.graph.insert_before(add, half)
    add.replace_input_with(0, half.outputs[0])
    add.replace_input_with(1, values["rest"])
    located = locate(exported, model, case, expected)
    assert located is not None
    assert located.kind == "build"

    sub = [node for node in model.graph if node.op_type == "Sub"][-1]
    left, right = sub.inputs
    sub.replace_input_with(0, right)
    sub.replace_input_with(1, left)
    located = locate(exported, model, case, expected)
    assert located is not None
    assert located.value == sub.outputs[0].name
    assert "noisy * 0.5 - self.weight" in located.source


def test_verification_reports_the_line(encoder: Any, exported: Any) -> None:
    node(exported, "LayerNormalization").attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-6)
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(ir.to_proto(exported.model).SerializeToString())
    names = [tensor.name for tensor in encoder.signature.inputs]
    engine = SimpleNamespace(run=lambda arrays: session.run(None, dict(zip(names, arrays, strict=True))))
    with pytest.raises(VerificationError) as caught:
        verify(
            engine,
            encoder.reference,
            encoder.cases,
            signature=encoder.signature,
            locate=lambda case, expected: locate(exported, exported.model, case, expected),
        )
    assert "LayerNormalization" in str(caught.value.where)
    assert forward_line(encoder, "self.norm(self.words(input_ids))") in str(caught.value.where)
