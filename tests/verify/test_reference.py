"""Eager as the reference: on copies, in eval mode, and nothing of the module or of torch is left changed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.errors import SourceError
from ingot.frontend.structure import flatten, take_apart
from ingot.signature import Dim, Signature, Tensor
from ingot.verify.draw import Case
from ingot.verify.reference import Reference, nan_weights, to_numpy, to_torch


def reference(module: torch.nn.Module, *args: Any, outputs: int = 1) -> tuple[Reference, Case]:
    call = take_apart(module.forward, args, {})
    with torch.no_grad():
        result = flatten(module(*args))[1]
    inputs = tuple(Tensor(name, "float32", ("n", 4)) for name in call.names)
    declared = tuple(Tensor(f"output_{index}", "float32", ("n", 4)) for index in range(outputs))
    signature = Signature(inputs, declared, (Dim("n"),), call.trees, result)
    arrays = tuple(to_numpy(tensor) for tensor in call.tensors)
    return Reference(module, signature, call), Case("user (n=3)", "user", arrays)


class Noisy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dropout(x)) + torch.rand(4)


def test_eval_mode_for_the_run_alone_and_the_rng_as_it_was() -> None:
    module = Noisy().train()
    module.norm.eval()
    run, case = reference(module, torch.randn(3, 4))
    state = torch.get_rng_state()
    statistics = module.norm.running_mean.clone()
    one, two = run.run(case), run.run(case)
    np.testing.assert_array_equal(one[0], two[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.equal(module.norm.running_mean, statistics)


def test_flags_come_back_when_forward_raises() -> None:
    class Raises(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.training else x @ torch.ones(7)

    module = Raises(4, 4).train()
    run, case = reference(module, torch.randn(3, 4))
    with pytest.raises(SourceError, match=r"the model itself raises .* user \(n=3\)") as caught:
        run.run(case)
    assert module.training
    assert "x @ torch.ones(7)" in str(caught.value.where)
    assert Path(__file__).name in str(caught.value.where)
    assert "model(*inputs)" in str(caught.value.fix)


def test_a_model_that_takes_fewer_sizes_is_told_which_to_declare() -> None:
    class Limited(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(5, 4)[: len(x)] if len(x) > 1 else x.new_zeros(0)[3]

    run, _ = reference(Limited(), torch.randn(3, 4))
    for size, bounds in ((7, "n:1..3"), (1, "n:3..")):
        case = Case(f"drawn (n={size})", "drawn", (np.zeros((size, 4), np.float32),))
        with pytest.raises(SourceError, match=rf"raises on inputs .* drawn \(n={size}\)") as caught:
            run.run(case)
        assert f"--shape 'x={bounds},4'" in str(caught.value.fix)


def test_a_forward_that_writes_into_its_input_poisons_nothing() -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1)

    run, case = reference(Writes(), torch.zeros(3, 4))
    before = case.inputs[0].copy()
    one, two = run.run(case), run.run(case)
    np.testing.assert_array_equal(case.inputs[0], before)
    np.testing.assert_array_equal(one[0], two[0])


def test_what_a_forward_keeps_can_still_train() -> None:
    class Keeps(torch.nn.Linear):
        table: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.table = x + 1 if self.table is None else self.table
            return super().forward(x) * self.table

    module = Keeps(4, 4)
    run, case = reference(module, torch.randn(3, 4))
    module.table = None
    run.run(case)
    module(torch.randn(3, 4)).sum().backward()
    assert module.weight.grad is not None


def test_another_structure_names_the_path() -> None:
    class Changes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            inner = {"a": x} if len(x) == 3 else {"b": x}
            return {"deep": [inner]}

    run, case = reference(Changes(), torch.randn(3, 4))
    assert len(run.run(case)) == 1
    larger = Case("middle (n=5)", "drawn", (np.zeros((5, 4), np.float32),))
    with pytest.raises(SourceError, match=r"deep\.0 has 'b' where 'a' is declared"):
        run.run(larger)


def test_nested_arguments_are_rebuilt() -> None:
    class Nested(torch.nn.Module):
        def forward(self, pair: tuple[torch.Tensor, dict[str, torch.Tensor]], scale: float) -> torch.Tensor:
            return pair[0] - scale * pair[1]["y"]

    run, case = reference(Nested(), (torch.ones(3, 4), {"y": torch.full((3, 4), 2.0)}), 0.5)
    np.testing.assert_array_equal(run.run(case)[0], np.zeros((3, 4), np.float32))


def test_bfloat16_comes_and_goes_as_bits(seed: int) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).bfloat16()
    array = to_numpy(x)
    assert array.dtype == np.uint16
    assert torch.equal(to_torch(array, torch.bfloat16), x)


class Rounds(torch.nn.Module):
    """Names float32 wherever code does: casts, a softmax in float32, a fresh buffer written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(4, 4, batch_first=True)
        self.conv = torch.nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.conv(x.unsqueeze(0)))
        fresh = torch.zeros(3, 4, dtype=torch.float32)
        fresh[:] = torch.softmax(y[0].to(torch.float32), -1, dtype=torch.float32)
        return fresh.float() * torch.arange(4) / 3.0


def test_exact_is_float64_through_every_cast(seed: int) -> None:
    torch.manual_seed(seed)
    module = Rounds().eval()
    run, case = reference(module, torch.randn(3, 4))
    weights = [parameter.clone() for parameter in module.parameters()]
    exact = run.exact(case)
    assert exact is not None
    doubled = Rounds().double().eval()
    doubled.load_state_dict(module.state_dict())
    x = torch.from_numpy(case.inputs[0]).double()
    with torch.no_grad():
        y, _ = doubled.rnn(doubled.conv(x.unsqueeze(0)))
    wanted = (torch.softmax(y[0], -1) * torch.arange(4) / 3.0).numpy()
    np.testing.assert_allclose(exact[0], wanted, rtol=1e-14)
    error = np.abs(run.run(case)[0] - wanted).max()
    assert 0 < error < 1e-5
    assert torch.get_default_dtype() == torch.float32
    for before, after in zip(weights, module.parameters(), strict=True):
        assert torch.equal(before, after)


def test_exact_is_unknown_where_a_module_cannot_be_copied() -> None:
    module = torch.nn.Linear(4, 4)
    module.lock = threading.Lock()  # type: ignore[assignment]
    run, case = reference(module, torch.randn(3, 4))
    assert run.exact(case) is None
    assert run.run(case)[0].shape == (3, 4)


def test_nan_weights_are_named() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3).half())
    assert nan_weights(module) == []
    with torch.no_grad():
        module[0].weight[0] = torch.tensor([torch.inf, -torch.inf, 1])
        module[0].bias[1] = torch.nan
        module[1].running_var[2] = torch.nan
        module[2].weight.fill_(60000)
    assert nan_weights(module) == ["0.bias", "1.running_var"]
