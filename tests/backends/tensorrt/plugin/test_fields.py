"""What a plan keeps of a plugin: read back as written, and refused in clear words where anything does not fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ingot.backends.tensorrt.plugin.fields import LIMIT_BYTES, Fields, read_call
from ingot.plugins.declaration import DoesNotFit, Given
from ingot.plugins.skip_norm.declaration import SKIP_NORM

DIGEST = "ab" * 32


def fields(**changed: Any) -> Fields:
    made: dict[str, Any] = {
        "declaration": SKIP_NORM,
        "dtype": "float16",
        "sizes": {"H": 64},
        "optional": ("bias",),
        "attributes": {"epsilon": 1e-5, "kind": "layer"},
        "kernels": DIGEST,
    }
    return Fields(**{**made, **changed})


def edited(**changed: Any) -> bytes:
    return json.dumps({**json.loads(fields().to_bytes()), **changed}).encode()


def given(size: int = 64, dtype: str = "float16", count: int = 4) -> list[Given]:
    return [Given((2, 3, size), dtype), Given((2, 3, size), dtype), Given((size,), dtype), Given((size,), dtype)][
        :count
    ]


@pytest.mark.parametrize("optional", [(), ("bias",)])
def test_fields_are_read_back_as_written(optional: tuple[str, ...]) -> None:
    written = fields(optional=optional)
    assert Fields.from_bytes(written.to_bytes(), SKIP_NORM) == written


def test_the_kernel_is_named_by_all_that_it_is_specialised_for() -> None:
    assert fields().kernel() == "layer-bias-f16-h64"
    assert fields(optional=(), dtype="bfloat16", attributes={"epsilon": 1.0, "kind": "rms"}).kernel() == "rms-bf16-h64"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not what Ingot writes"),
        (b"\x80\x04K\x01.", "not what Ingot writes"),
        (b"[1]", "not an object"),
        (b'{"plugin": "skip_norm"}', "are plugin, not attributes"),
        (b" " * (LIMIT_BYTES + 1), f"{LIMIT_BYTES} are the most"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "not what Ingot writes"),
        (edited(plugin="rotary"), "of the plugin 'rotary', not of skip_norm"),
        (edited(version=2), "skip_norm of version 2; this Ingot has version 1"),
        (edited(version="1"), "skip_norm of version '1'"),
        (edited(dtype="int8"), "the dtype is 'int8'; it is one of float32, float16, bfloat16"),
        (edited(sizes={"H": 0}), "H is 0; skip_norm takes 1 to 16384"),
        (edited(sizes={"H": 16385}), "H is 16385"),
        (edited(sizes={"H": True}), "H is True"),
        (edited(sizes={"H": 64.0}), "H is 64.0"),
        (edited(sizes={}), "the sizes are not of H"),
        (edited(sizes={"H": 64, "B": 1}), "the sizes are not of H"),
        (edited(optional=["x"]), "they are among bias"),
        (edited(optional=["bias", "bias"]), "they are among bias"),
        (edited(optional="bias"), "they are among bias"),
        (edited(attributes={"epsilon": -1.0, "kind": "rms"}), "epsilon is -1.0; it is to be above 0"),
        (edited(attributes={"epsilon": 1e-5, "kind": "batch"}), "kind is 'batch'; it is one of rms, layer"),
        (edited(attributes={"epsilon": 1e-5}), "the attributes are not epsilon, kind"),
        (edited(attributes=[]), "the attributes are not epsilon, kind"),
        (edited(kernels="xyz"), "not 64 hexadecimal digits"),
        (edited(kernels=7), "not 64 hexadecimal digits"),
        (edited(more=1), "not attributes, dtype"),
    ],
)
def test_what_was_not_written_by_us_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        Fields.from_bytes(data, SKIP_NORM)
    assert text in str(error.value)


def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    """Every damaged byte either cannot be read, or gives fields that the declaration allows."""
    generator = np.random.default_rng(seed)
    whole = np.frombuffer(fields().to_bytes(), np.uint8)
    for _ in range(500):
        damaged = whole.copy()
        damaged[generator.integers(len(whole))] = generator.integers(256)
        try:
            found = Fields.from_bytes(damaged.tobytes(), SKIP_NORM)
        except DoesNotFit:
            continue
        assert SKIP_NORM.check_attributes(found.attributes) == found.attributes
        assert 1 <= found.sizes["H"] <= SKIP_NORM.fixed["H"]


def test_tensors_that_fit_are_taken() -> None:
    fields().check(given())
    fields(optional=()).check(given(count=3))
    fields().check([Given((None, None, 64), None), *given()[1:]])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (given(size=32), "H is 32 in the tensors and 64 in the plan's fields"),
        (given(dtype="float32"), "x is float32; by the plan's fields it is float16"),
        (given(count=3), "has 3 inputs; by its fields they are x, residual, weight, bias"),
        ([*given(count=3), Given((32,), "float16")], "H is 64 in x and 32 in bias"),
        ([Given((2, 64), "float16"), *given()[1:]], "x has 2 axes"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: list[Given], text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        fields().check(tensors)
    assert text in str(error.value)


def word(text: str) -> np.ndarray[Any, Any]:
    """As TensorRT gives a string attribute."""
    return np.frombuffer(text.encode() + b"\0", np.int8)


def test_a_call_is_read_from_the_parsers_attributes() -> None:
    attributes, inputs = read_call(
        SKIP_NORM,
        {
            "epsilon": np.array([1e-5], np.float32),
            "kind": word("layer"),
            "inputs": word("x,residual,weight,bias"),
            "plugin_version": word("1"),
        },
    )
    assert attributes == {"epsilon": pytest.approx(1e-5), "kind": "layer"}
    assert inputs == ("x", "residual", "weight", "bias")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"inputs": word("x,residual")}, "its inputs are said to be x, residual"),
        ({"inputs": word("x,weight,residual")}, "they are of x, residual, weight, bias"),
        ({"inputs": word("x,residual,weight,scale")}, "they are of x, residual, weight, bias"),
        ({"epsilon": np.array([], np.float32)}, "epsilon has 0 values"),
        ({"epsilon": np.array([0.0], np.float32)}, "above 0"),
        ({"kind": word("batch")}, "kind is 'batch'"),
        ({"axis": word("1")}, "no attribute 'axis'"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        read_call(SKIP_NORM, {"inputs": word("x,residual,weight"), **change})
    assert text in str(error.value)


def test_inputs_are_never_counted() -> None:
    with pytest.raises(DoesNotFit, match="its inputs are said to be none"):
        read_call(SKIP_NORM, {})
