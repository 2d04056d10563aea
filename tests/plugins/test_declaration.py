"""The declaration of an operation: what it takes, what it refuses and in which words, what derives from it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ingot.plugins.declaration import Declaration, DoesNotFit, Given, matrix
from ingot.plugins.declared import DECLARED
from ingot.plugins.skip_norm.declaration import SKIP_NORM

F16 = "float16"


def tensors(**changed: Given | None) -> dict[str, Given | None]:
    return {
        "x": Given((2, "S", 64), F16),
        "residual": Given((2, "S", 64), F16),
        "weight": Given((64,), F16),
        **changed,
    }


def test_fit_gives_the_dims_and_they_the_output_shapes() -> None:
    dims = SKIP_NORM.fit(tensors())
    assert dims == {"B": 2, "S": "S", "H": 64}
    assert SKIP_NORM.output_shapes(dims) == [(2, "S", 64), (2, "S", 64)]


def test_what_one_tensor_does_not_know_another_may() -> None:
    assert SKIP_NORM.fit(tensors(x=Given((None, "S", "h"), None)))["H"] == 64
    assert SKIP_NORM.fit(tensors(x=Given(("B", "S", 64), None)))["B"] == 2


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"weight": Given((32,), F16)}, "H is 64 in x and 32 in weight"),
        ({"residual": Given((3, "S", 64), F16)}, "B is 2 in x and 3 in residual"),
        ({"bias": Given((1,), F16)}, "H is 64 in x and 1 in bias"),
        ({"x": Given((2, 64), F16)}, "x has 2 axes; it is [B, S, H]"),
        ({"weight": None}, "without its input weight"),
        ({"weight": Given((64,), "float32")}, "x is float16 and weight float32"),
        ({"x": Given((2, "S", 64), "int8")}, "x is int8; skip_norm takes float32, float16, bfloat16"),
    ],
)
def test_tensors_that_contradict_are_refused(changed: dict[str, Given | None], text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        SKIP_NORM.fit(tensors(**changed))
    assert text in str(error.value)


@pytest.mark.parametrize("size", [0, 16385])
def test_a_size_beyond_the_limit_is_refused(size: int) -> None:
    given = {"x": Given((1, 1, size), None), "residual": Given((1, 1, size), None), "weight": Given((size,), None)}
    with pytest.raises(DoesNotFit, match=f"H is {size}; skip_norm takes 1 to 16384"):
        SKIP_NORM.fit(given)


def test_attributes_get_their_defaults_in_declared_order() -> None:
    assert list(SKIP_NORM.check_attributes({"kind": "layer"}).items()) == [("epsilon", 1e-6), ("kind", "layer")]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; it is to be above 0"),
        ({"epsilon": -1e-5}, "epsilon is -1e-05"),
        ({"epsilon": float("nan")}, "not a finite number"),
        ({"epsilon": "1e-5"}, "not a finite number"),
        ({"epsilon": True}, "not a finite number"),
        ({"kind": "batch"}, "kind is 'batch'; it is one of rms, layer"),
        ({"kind": 3}, "kind is 3"),
        ({"eps": 1e-5}, "skip_norm has no attribute 'eps'; it has epsilon, kind"),
    ],
)
def test_wrong_attributes_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        SKIP_NORM.check_attributes(values)
    assert text in str(error.value)


def test_variants_name_words_and_optional_inputs() -> None:
    assert [name for name, _, _ in SKIP_NORM.variants()] == ["rms", "rms-bias", "layer", "layer-bias"]
    assert SKIP_NORM.variant({"kind": "layer", "epsilon": 1.0}, ["x", "bias"]) == "layer-bias"


@pytest.mark.parametrize("declaration", DECLARED.values(), ids=lambda declaration: declaration.name)
def test_the_matrix_has_every_dtype_size_and_variant(declaration: Declaration) -> None:
    cells = matrix(declaration, {"B": 2, "S": 3})
    assert {cell.dtype for cell in cells} == set(declaration.dtypes)
    sizes = {awkward.size for awkward in declaration.awkward["H"]}
    assert len(cells) == len(declaration.dtypes) * len(sizes) * len(list(declaration.variants()))
    assert len({str(cell) for cell in cells}) == len(cells)
    assert all(cell.why for cell in cells)


@pytest.mark.parametrize("declaration", DECLARED.values(), ids=lambda declaration: declaration.name)
def test_a_declaration_holds_together(declaration: Declaration) -> None:
    letters = {letter for spec in declaration.inputs for letter in spec.dims}
    assert {letter for spec in declaration.outputs for letter in spec.dims} <= letters
    assert {*declaration.fixed, *declaration.programs, *declaration.awkward} <= letters
    assert declaration.check_attributes({}).keys() == {attribute.name for attribute in declaration.attributes}
    assert all(awkward.size <= declaration.fixed["H"] for awkward in declaration.awkward["H"])


def test_declarations_import_neither_torch_nor_onnx_nor_triton() -> None:
    code = (
        "import sys, ingot.plugins.declared, ingot.plugins.skip_norm, ingot.backends.tensorrt.plugin.host;"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'triton', 'onnxscript'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
