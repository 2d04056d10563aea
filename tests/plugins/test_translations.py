"""Calls in a user's own module: traced as one node, verified on the cpu target through the function body."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

import ingot
from ingot.errors import CompileError
from ingot.frontend.export import export
from ingot.frontend.source import resolve
from ingot.passes.contract import run_passes
from ingot.pipeline import passes
from ingot.plugins.declaration import DOMAIN
from ingot.plugins.skip_norm import skip_norm
from ingot.runtime.metrics import measure
from ingot.verify.reference import to_numpy


class Block(torch.nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = torch.nn.Parameter(torch.rand(hidden) + 0.5)
        self.weight, self.bias = torch.nn.Parameter(torch.rand(hidden) + 0.5), torch.nn.Parameter(torch.randn(hidden))
        self.mix = torch.nn.Linear(hidden, hidden)
        self.up, self.down = torch.nn.Linear(hidden, 2 * hidden), torch.nn.Linear(2 * hidden, hidden)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, residual = skip_norm(self.mix(x), residual, self.norm, epsilon=1e-5)
        y = self.down(torch.relu(self.up(y)))
        return skip_norm(y, residual, self.weight, self.bias, kind="layer")


class Blocks(torch.nn.Module):
    def __init__(self, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(hidden) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x
        for block in self.blocks:
            x, residual = block(x, residual)
        return x + residual


DYNAMIC = {"x": {0: "batch", 1: "sequence"}}


def calls(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == DOMAIN]


def test_a_call_becomes_one_node_with_its_body_and_the_passes_keep_it(seed: int) -> None:
    torch.manual_seed(seed)
    model = export(resolve(Blocks().eval(), torch.randn(2, 5, 32)), dynamic_shapes=DYNAMIC).model
    assert [node.overload for node in calls(model)] == ["rms", "layer-bias"] * 2
    assert calls(model)[0].attributes["epsilon"].value == pytest.approx(1e-5)
    run_passes(model, passes())
    assert [node.overload for node in calls(model)] == ["rms", "layer-bias"] * 2
    assert {identifier[2] for identifier in model.functions} == {"rms", "layer-bias"}


class HalfNorm(torch.nn.Module):
    """ONNX Runtime's CPU has hardly a kernel for float16, and the body needs none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(32).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return skip_norm(x.half(), x.half(), self.weight, kind="layer")[0].float()


@pytest.mark.parametrize("build", [Blocks, HalfNorm])
def test_the_cpu_target_runs_and_verifies_it(build: type[torch.nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    module = build().eval()
    engine = ingot.compile(module, torch.randn(2, 5, 32), dynamic_shapes=DYNAMIC)
    other = torch.randn(3, 7, 32)
    with torch.no_grad():
        expected = module(other).numpy()
    dtype = "float16" if build is HalfNorm else "float32"
    assert measure(expected.astype(dtype), np.asarray(engine(other.numpy())).astype(dtype), dtype).holds


class BrainNorm(torch.nn.Module):
    """bfloat16 in and out, which numpy lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(32).bfloat16())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return skip_norm(x, x, self.weight)


def test_bfloat16_goes_in_and_comes_out(seed: int) -> None:
    torch.manual_seed(seed)
    module = BrainNorm().eval()
    engine = ingot.compile(module, torch.randn(2, 5, 32).bfloat16(), dynamic_shapes=DYNAMIC)
    x = torch.randn(3, 7, 32).bfloat16()
    with torch.no_grad():
        expected = module(x)
    for want, got in zip(expected, engine(x), strict=True):
        assert got.dtype == torch.bfloat16
        assert measure(to_numpy(want), to_numpy(got), "bfloat16").holds


def test_a_weight_of_the_wrong_size_names_the_users_line() -> None:
    class Wrong(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return skip_norm(x, x, self.weight)[0]

    with pytest.raises(CompileError) as error:
        ingot.compile(Wrong(), torch.randn(2, 3, 4))
    assert "H is 4 in x and 5 in weight" in error.value.what
    assert error.value.where is not None
    assert error.value.where.endswith("return skip_norm(x, x, self.weight)[0]")
