"""The sizes that an engine is built for come from the declared dims, and bounds that nobody gave are told."""

from __future__ import annotations

import pytest

from ingot.backends.tensorrt.profiles import BY_DEFAULT, LEAST_MAX, as_option, profile
from ingot.errors import UsageError
from ingot.signature import Dim, Signature, Tensor


def signature(*shapes: tuple[int | str, ...], dims: tuple[Dim, ...]) -> Signature:
    inputs = tuple(Tensor(f"x{index}", "float32", shape) for index, shape in enumerate(shapes))
    return Signature(inputs, (), dims, {}, {"tuple": []})


def test_the_dims_bounds_are_the_ends_and_the_example_is_tuned_for() -> None:
    declared = signature(("batch", 3, "2*length + 1"), dims=(Dim("batch", 1, 8), Dim("length", 4, 100)))
    found, notes = profile(declared, {"batch": 2, "length": 16})
    assert found == {"x0": {"min": [1, 3, 9], "opt": [2, 3, 33], "max": [8, 3, 201]}}
    assert notes == []
    assert as_option(found) == {"x0": [[1, 3, 9], [2, 3, 33], [8, 3, 201]]}


def test_an_input_without_a_dim_has_no_profile() -> None:
    found, _ = profile(signature((2, 3), ("b", 3), dims=(Dim("b", 1, 4),)), {})
    assert list(found) == ["x1"]


@pytest.mark.parametrize("size", [1, 40])
def test_a_dim_without_an_upper_bound_gets_one_and_says_so(size: int) -> None:
    found, notes = profile(signature(("b", 3), dims=(Dim("b"),)), {"b": size})
    most = max(LEAST_MAX, BY_DEFAULT * size)
    assert found["x0"]["max"] == [most, 3]
    assert len(notes) == 1
    assert str(most) in notes[0]
    assert "--shape INPUT=b:1..N" in notes[0]


def test_the_size_tuned_for_stays_inside_the_bounds() -> None:
    declared = signature(("b",), ("c",), dims=(Dim("b", 4, 8), Dim("c", 1, 8)))
    found, _ = profile(declared, {"b": 2, "c": 100})
    assert found["x0"]["opt"] == [4]
    assert found["x1"]["opt"] == [8]


def test_sizes_beyond_what_tensorrt_counts_are_refused_with_the_shape() -> None:
    declared = signature(("b", "s"), dims=(Dim("b", 1, 1 << 20), Dim("s", 1, 1 << 20)))
    with pytest.raises(UsageError, match="1048576x1048576"):
        profile(declared, {})
