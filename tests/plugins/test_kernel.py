"""The Triton kernel in Triton's interpreter, on the CPU, against the reference over the whole matrix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ingot.plugins.declaration import Cell, matrix
from ingot.plugins.skip_norm.declaration import SKIP_NORM
from ingot.plugins.skip_norm.reference import skip_norm
from ingot.runtime.metrics import measure
from ingot.verify.reference import to_numpy

CELLS = matrix(SKIP_NORM, {"B": 2, "S": 3})

EPSILON = 0.25
"""Large, so that a kernel without it is far off."""

ROUNDED = "a sum that rounds to one number"

RUN = """
import sys, torch
from ingot.plugins.skip_norm import kernel
results = {}
for name, (inputs, kind) in torch.load(sys.argv[1]).items():
    x = inputs["x"]
    y, total = torch.full_like(x, 9.0), torch.full_like(x, 9.0)
    rows, hidden = x.shape[0] * x.shape[1], x.shape[2]
    constants = kernel.specialise(hidden=hidden, kind=kind, bias="bias" in inputs)
    bias = inputs.get("bias", x[:0])
    arguments = (x, inputs["residual"], inputs["weight"], bias, y, total, float(sys.argv[2]))
    kernel.skip_norm[(rows,)](*arguments, **constants, num_warps=kernel.warps(hidden))
    results[name] = (y, total)
torch.save(results, sys.argv[1])
"""
"""In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""

Results = dict[str, tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Inputs and results of every cell, all from one process."""
    generator = torch.Generator().manual_seed(int(os.environ["INGOT_SEED"]))
    inputs = {
        str(cell): (
            {
                # Rows far from a mean of zero, so that it matters.
                spec.name: (torch.randn([cell.dims[letter] for letter in spec.dims], generator=generator) + 1).to(
                    getattr(torch, cell.dtype)
                )
                for spec in SKIP_NORM.inputs
                if not spec.optional or spec.name in cell.given
            },
            cell.chosen["kind"],
        )
        for cell in CELLS
    }
    inputs[ROUNDED] = (
        {"x": torch.full((1, 1, 4), 1024.0).half(), "residual": torch.tensor([[[0.25, 0.0, -0.25, 0.1]]]).half()}
        | {"weight": torch.ones(4).half()},
        "layer",
    )
    path: Path = tmp_path_factory.mktemp("kernel") / "tensors.pt"
    torch.save(inputs, path)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(EPSILON)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: (inputs[name][0], result) for name, result in torch.load(path).items()}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_kernel_computes_what_the_reference_does(cell: Cell, results: Results) -> None:
    inputs, (y, total) = results[str(cell)]
    expected, expected_sum = skip_norm(**inputs, epsilon=EPSILON, kind=cell.chosen["kind"])
    if cell.dtype == "bfloat16":
        # The interpreter cuts a float32 to bfloat16 where a GPU rounds it.
        wide = inputs["x"].float() + inputs["residual"].float()
        expected_sum = (wide.view(torch.int32) & -65536).view(torch.float32).bfloat16()
        expected, _ = skip_norm(
            expected_sum, torch.zeros_like(total), *list(inputs.values())[2:], epsilon=EPSILON, kind=cell.chosen["kind"]
        )
    assert torch.equal(total, expected_sum)
    assert measure(to_numpy(expected), to_numpy(y), cell.dtype).holds


def test_the_norm_is_over_the_rounded_sum(results: Results) -> None:
    """What the residual adds is lost to rounding, so nothing of it may be normalised to numbers around 1."""
    inputs, (y, total) = results[ROUNDED]
    assert torch.equal(total, inputs["x"])
    assert torch.equal(y, torch.zeros_like(y))
