"""Drawn inputs stay inside what is declared, and reach what a fault would need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.runtime.shapes import ShapeCheck
from ingot.signature import Dim, Domain, Signature, Tensor, linear
from ingot.verify.draw import LARGE_ELEMENTS, LARGE_FACTOR, Case, cases, dim_sizes, shape_of

BATCH, SEQUENCE = Dim("batch"), Dim("sequence", 1, 512)
IDS = Tensor("ids", "int64", ("batch", "sequence"), Domain(3, 99))
MASK = Tensor("mask", "int64", ("batch", "sequence"), Domain(0, 1, "mask"))


def signature(*inputs: Tensor, dims: tuple[Dim, ...] = (BATCH, SEQUENCE)) -> Signature:
    parameters = {tensor.name: {"tensor": index} for index, tensor in enumerate(inputs)}
    return Signature(inputs, (), dims, parameters, {"tuple": []})


def text_cases(seed: int) -> list[Case]:
    examples = [np.full((2, 16), 5), np.ones((2, 16), np.int64)]
    return cases(signature(IDS, MASK), examples, seed=seed)


def test_the_users_example_comes_first_and_alone_when_quick(seed: int) -> None:
    examples = [np.full((2, 16), 5), np.ones((2, 16), np.int64)]
    first = text_cases(seed)[0]
    assert first.origin == "user"
    np.testing.assert_array_equal(first.inputs[0], examples[0])
    quick = cases(signature(IDS, MASK), examples, seed=seed, mode="quick")
    assert [case.origin for case in quick] == ["user"]


def test_the_same_seed_draws_the_same(seed: int) -> None:
    one, two, other = text_cases(seed), text_cases(seed), text_cases(seed + 1)
    for a, b in zip(one, two, strict=True):
        assert a.name == b.name
        for x, y in zip(a.inputs, b.inputs, strict=True):
            np.testing.assert_array_equal(x, y)
    assert any(not np.array_equal(a.inputs[0], c.inputs[0]) for a, c in zip(one[1:], other[1:], strict=True))


def test_sizes_differ_from_the_traced_and_from_each_other(seed: int) -> None:
    shapes = [case.inputs[0].shape for case in text_cases(seed)]
    assert len(shapes) <= 6
    assert (1, 1) in shapes
    assert max(length for _, length in shapes) >= 64
    for batch, length in shapes[2:]:
        assert batch not in (2, 16)
        assert length not in (2, 16, batch)


def test_the_large_case_is_bounded(seed: int) -> None:
    image = Tensor("image", "float32", ("batch", 3, 64, 64))
    example = np.random.default_rng(seed).random((2, 3, 64, 64), np.float32)
    drawn = cases(signature(image, dims=(BATCH,)), [example], seed=seed)
    assert max(case.inputs[0].size for case in drawn) <= LARGE_FACTOR * example.size
    assert max(case.inputs[0].shape[0] for case in drawn) > 2
    assert max(case.inputs[0].size for case in text_cases(seed)) <= 2 * LARGE_ELEMENTS


def test_bounds_and_domains_hold(seed: int) -> None:
    narrow = (Dim("batch", 2, 4), Dim("sequence", 5, 9))
    for case in cases(signature(IDS, MASK, dims=narrow), [np.full((2, 6), 5), np.ones((2, 6), int)], seed=seed)[1:]:
        ids, mask = case.inputs
        assert 2 <= ids.shape[0] <= 4
        assert 5 <= ids.shape[1] <= 9
        assert ids.min() >= 3
        assert ids.max() <= 99
        assert set(np.unique(mask)) <= {0, 1}
        assert ids.dtype == mask.dtype == np.int64


def test_padding_comes_last_with_a_full_row_and_a_row_of_one(seed: int) -> None:
    padded = [case for case in text_cases(seed) if case.origin == "padded"]
    assert padded
    for case in padded:
        mask = case.inputs[1]
        assert (np.diff(mask, axis=1) <= 0).all()
        lengths = mask.sum(1)
        assert mask.shape[1] in lengths
        assert 1 in lengths
    assert all(case.inputs[1].all() for case in text_cases(seed) if case.origin == "drawn")


def test_a_single_row_is_padded_too(seed: int) -> None:
    mask = Tensor("mask", "bool", (1, "sequence"), Domain(0, 1, "mask"))
    drawn = cases(signature(mask, dims=(SEQUENCE,)), [np.ones((1, 8), bool)], seed=seed)
    for case in drawn:
        assert case.inputs[0].dtype == bool
        if case.origin == "padded":
            assert 1 <= case.inputs[0].sum() < case.inputs[0].size


def test_axes_that_depend_on_each_other(seed: int) -> None:
    long = Tensor("long", "float32", ("2*length + 1", 4))
    short = Tensor("short", "float32", ("length", "batch"))
    dims = (Dim("length", 2, 50), Dim("batch"))
    examples = [np.zeros((11, 4), np.float32), np.zeros((5, 3), np.float32)]
    assert dim_sizes(signature(long, short, dims=dims), examples) == {"length": 5, "batch": 3}
    drawn = cases(signature(long, short, dims=dims), examples, seed=seed)
    assert len({case.inputs[1].shape for case in drawn}) >= 3
    for case in drawn:
        assert case.inputs[0].shape[0] == 2 * case.inputs[1].shape[0] + 1


def test_fixed_sizes_are_drawn_afresh_once(seed: int) -> None:
    fixed = Tensor("x", "float32", (2, 3))
    drawn = cases(signature(fixed, dims=()), [np.zeros((2, 3), np.float32)], seed=seed)
    assert [case.origin for case in drawn] == ["user", "drawn"]
    assert np.unique(drawn[1].inputs[0]).size == 6


def draw_like(tensor: Tensor, example: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    return cases(signature(tensor), [example], seed=seed)[-1].inputs[0]


def test_floats_follow_the_example(seed: int) -> None:
    tensor = Tensor("x", "float32", ("batch", "sequence"))
    like = np.random.default_rng(seed).uniform(10, 20, (40, 40)).astype(np.float32)
    drawn = draw_like(tensor, like, seed)
    assert drawn.dtype == np.float32
    assert drawn.min() >= like.min()
    assert drawn.max() <= like.max()
    assert drawn.mean() == pytest.approx(15, abs=0.5)
    constant = draw_like(tensor, np.ones((4, 40), np.float32), seed)
    assert constant.std() == pytest.approx(1, abs=0.3)


def test_integers_without_a_domain_stay_between_the_examples(seed: int) -> None:
    tensor = Tensor("n", "int32", ("batch", "sequence"))
    drawn = draw_like(tensor, np.array([[4, 9], [5, 6]], np.int32), seed)
    assert drawn.dtype == np.int32
    assert 4 <= drawn.min() < drawn.max() <= 9


def test_bfloat16_is_drawn_as_rounded_bits(seed: int) -> None:
    tensor = Tensor("x", "bfloat16", ("batch", "sequence"))
    drawn = draw_like(tensor, np.full((4, 40), 0x3F80, np.uint16), seed)
    values = (drawn.astype(np.uint32) << 16).view(np.float32)
    assert drawn.dtype == np.uint16
    assert values.mean() == pytest.approx(1, abs=0.5)
    assert values.std() == pytest.approx(1, abs=0.3)


def test_masks_of_one_shape_pad_the_same_tokens(seed: int) -> None:
    other = Tensor("pad", "bfloat16", ("batch", "sequence"), Domain(0, 1, "mask"))
    examples = [np.full((2, 16), 5), np.ones((2, 16), np.int64), np.full((2, 16), 0x3F80, np.uint16)]
    drawn = cases(signature(IDS, MASK, other), examples, seed=seed)
    assert any(case.origin == "padded" for case in drawn)
    for case in drawn[1:]:
        assert case.inputs[2].dtype == np.uint16
        np.testing.assert_array_equal(case.inputs[2], np.where(case.inputs[1] == 1, 0x3F80, 0))


@st.composite
def declared(draw: st.DrawFn) -> tuple[Signature, list[np.ndarray[Any, Any]]]:
    """A signature of up to three inputs over two bounded dims, and one lawful example of each."""
    dims = []
    for name in ("a", "b"):
        low = draw(st.integers(1, 40))
        high = draw(st.none() | st.integers(low, low + 200))
        dims.append(Dim(name, low, high))
    axes = st.sampled_from(["a", "b", "2*a", "a + 3", "3*b + 1", 4])
    example = {dim.name: draw(st.integers(dim.min, min(dim.max or dim.min + 9, dim.min + 9))) for dim in dims}
    inputs, arrays = [], []
    for index in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(axes, min_size=0, max_size=3)))
        dtype = draw(st.sampled_from(["float32", "int64", "bool", "float16"]))
        domain = Domain(-2, draw(st.integers(-2, 50))) if dtype == "int64" and draw(st.booleans()) else None
        inputs.append(Tensor(f"x{index}", dtype, shape, domain))
        arrays.append(np.ones(shape_of(inputs[-1], example), dtype))
    used = {form.dim for tensor in inputs for axis in tensor.shape if isinstance(axis, str) and (form := linear(axis))}
    return signature(*inputs, dims=tuple(dim for dim in dims if dim.name in used)), arrays


@given(made=declared(), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_an_engine_takes_whatever_is_drawn(made: Any, seed: int) -> None:
    what, examples = made
    check = ShapeCheck(what)
    for case in cases(what, examples, seed=seed):
        check(tuple(array.shape for array in case.inputs))
        for tensor, array in zip(what.inputs, case.inputs, strict=True):
            assert array.dtype == tensor.dtype
            if tensor.domain is not None and case.origin != "user" and array.size:
                assert tensor.domain.low <= array.min() <= array.max() <= tensor.domain.high
