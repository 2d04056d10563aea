"""The torch operators made from the declarations: their numbers against torch's own norms, shapes, and refusals."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.plugins.declaration import DOMAIN, Cell, DoesNotFit, matrix
from ingot.plugins.skip_norm import skip_norm
from ingot.plugins.skip_norm.declaration import SKIP_NORM
from ingot.plugins.torch_operators import REFERENCES, operators, schema
from ingot.runtime.metrics import measure
from ingot.verify.reference import to_numpy

CELLS = matrix(SKIP_NORM, {"B": 2, "S": 3})


def draw(cell: Cell, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, cell.dtype)
    return {
        spec.name: (torch.randn([cell.dims[letter] for letter in spec.dims], generator=generator) + 1).to(dtype)
        for spec in SKIP_NORM.inputs
        if not spec.optional or spec.name in cell.given
    }


def by_torch(x: Any, residual: Any, weight: Any, bias: Any = None, *, epsilon: float, kind: str) -> Any:
    """The same of torch's own operators, in float32 from the rounded sum on."""
    total = x + residual
    shape = (x.shape[-1],)
    wide, weight = total.float(), weight.float()
    if kind == "layer":
        y = torch.nn.functional.layer_norm(wide, shape, weight, None if bias is None else bias.float(), epsilon)
    else:
        y = torch.nn.functional.rms_norm(wide, shape, weight, epsilon)
        y = y if bias is None else y + bias.float()
    return y.to(x.dtype), total


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_it_computes_what_torchs_own_norms_do(cell: Cell, seed: int) -> None:
    inputs = draw(cell, seed)
    y, total = skip_norm(**inputs, epsilon=0.25, kind=cell.chosen["kind"])  # type: ignore[arg-type]
    expected, expected_total = by_torch(**inputs, epsilon=0.25, kind=cell.chosen["kind"])
    assert torch.equal(total, expected_total)
    assert measure(to_numpy(expected), to_numpy(y), cell.dtype).holds


def test_the_norm_is_over_the_rounded_sum() -> None:
    """What the residual adds is lost to rounding, so nothing of it may be normalised to numbers around 1."""
    x, residual = torch.full((1, 1, 4), 1024.0).half(), torch.tensor([[[0.25, 0.0, -0.25, 0.1]]]).half()
    y, total = skip_norm(x, residual, torch.ones(4).half(), kind="layer")
    assert torch.equal(total, x)
    assert torch.equal(y, torch.zeros_like(x))


def test_float64_is_computed_as_such(seed: int) -> None:
    inputs = {name: tensor.double() for name, tensor in draw(CELLS[2], seed).items()}
    y, _ = skip_norm(**inputs)
    rounded, _ = skip_norm(**{name: tensor.float() for name, tensor in inputs.items()})
    assert y.dtype == torch.float64
    assert 0 < (y - rounded.double()).abs().max() < 1e-5


def test_not_a_number_and_infinity_stay_in_their_row() -> None:
    x = torch.ones(1, 3, 4)
    x[0, 0, 1], x[0, 1, 2] = float("nan"), float("inf")
    for kind in ("rms", "layer"):
        y, total = skip_norm(x, torch.zeros_like(x), torch.ones(4), kind=kind)  # type: ignore[arg-type]
        assert not y[0, 0].isfinite().any()
        assert y[0, 1].isnan().any()
        assert y[0, 2].isfinite().all()
        assert total[0, 1, 2] == float("inf")


def test_the_schema_is_the_declarations() -> None:
    assert schema(SKIP_NORM) == (
        "skip_norm(Tensor x, Tensor residual, Tensor weight, Tensor? bias=None, *, float epsilon=1e-06, "
        "str kind='rms') -> (Tensor y, Tensor sum)"
    )


@pytest.mark.parametrize("function", [skip_norm, REFERENCES["skip_norm"]])
def test_what_people_call_and_the_reference_take_what_is_declared(function: Callable[..., Any]) -> None:
    """They are written out for people and type checkers to read."""
    given = inspect.signature(function).parameters
    kinds = {name: parameter.kind for name, parameter in given.items()}
    defaults = {name: parameter.default for name, parameter in given.items()}
    assert list(given) == [declared.name for declared in (*SKIP_NORM.inputs, *SKIP_NORM.attributes)]
    for spec in SKIP_NORM.inputs:
        assert kinds[spec.name] is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert defaults[spec.name] is (None if spec.optional else inspect.Parameter.empty)
    for attribute in SKIP_NORM.attributes:
        assert kinds[attribute.name] is inspect.Parameter.KEYWORD_ONLY
        assert defaults[attribute.name] in (attribute.default, inspect.Parameter.empty)


def test_the_page_says_what_is_declared() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ops" / f"{SKIP_NORM.name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {DOMAIN}.{SKIP_NORM.name}, version {SKIP_NORM.version}\n")
    rows = [line for line in page.splitlines() if line.startswith(("| input", "| output", "| attribute"))]
    said = [row.split("|")[2].split("`")[1::2] for row in rows]
    assert [name for names in said for name in names] == [
        declared.name for declared in (*SKIP_NORM.inputs, *SKIP_NORM.outputs, *SKIP_NORM.attributes)
    ]
    assert ", ".join(SKIP_NORM.dtypes).replace(", bfloat16", " or bfloat16") in page
    assert f"H is 1 to {SKIP_NORM.fixed['H']}" in page
    for spec in (*SKIP_NORM.inputs, *SKIP_NORM.outputs):
        row = next(row for row in rows if f"`{spec.name}`" in row)
        assert f"[{', '.join(spec.dims)}]" in row
        assert row.startswith("| input, optional |") is spec.optional


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_torchs_own_check_of_operators_passes(kind: str, seed: int) -> None:
    inputs = draw(CELLS[3], seed)
    results = torch.library.opcheck(
        operators()["skip_norm"],
        tuple(inputs.values()),
        {"kind": kind},
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )
    assert set(results.values()) == {"SUCCESS"}


def test_it_is_torch_ops_ingot_skip_norm(seed: int) -> None:
    inputs = draw(CELLS[0], seed)
    operators()
    assert torch.equal(torch.ops.ingot.skip_norm(*inputs.values())[0], skip_norm(*inputs.values())[0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight": torch.ones(3)}, "H is 4 in x and 3 in weight"),
        ({"residual": torch.ones(1, 2, 4).half()}, "x is float32 and residual float16"),
        ({"x": torch.ones(2, 4)}, "x has 2 axes"),
        ({"epsilon": 0.0}, "above 0"),
        ({"kind": "group"}, "one of rms, layer"),
    ],
)
def test_what_does_not_fit_is_a_value_error(change: dict[str, Any], text: str) -> None:
    given = {"x": torch.ones(1, 2, 4), "residual": torch.ones(1, 2, 4), "weight": torch.ones(4), **change}
    with pytest.raises(DoesNotFit) as error:
        skip_norm(**given)
    assert text in str(error.value)


def test_zero_rows_are_no_rows() -> None:
    y, total = skip_norm(torch.ones(0, 3, 4), torch.ones(0, 3, 4), torch.ones(4))
    assert y.shape == total.shape == (0, 3, 4)
    assert np.asarray(y).size == 0


def test_a_gradient_is_refused_and_not_silently_none() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    y, _ = skip_norm(torch.ones(1, 2, 4), torch.ones(1, 2, 4), weight)
    with pytest.raises(NotImplementedError, match=r"ingot\.skip_norm is for inference"):
        y.sum().backward()


def test_many_threads_register_once() -> None:
    code = """
import threading
from ingot.plugins.translations import plugin_translations
barrier = threading.Barrier(8)
failed = []
def register():
    barrier.wait()
    try:
        plugin_translations()
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=register) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
