"""What becomes an array of which dtype, what does not, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ingot.errors import FormatError, InputError
from ingot.runtime.arrays import DTYPES, FEW_ELEMENTS, array_dtype, domain_check, is_on_gpu, to_array, to_result
from ingot.signature import Domain, Tensor

torch = pytest.importorskip("torch")


def of(dtype: str, *shape: int | str, domain: Domain | None = None) -> Tensor:
    return Tensor("x", dtype, shape, domain)


WIDENS = [
    ("int32", "int64"),
    ("uint8", "int64"),
    ("bool", "int32"),
    ("float16", "float32"),
    ("float32", "float64"),
    ("int64", "int64"),
]
LOSES = [
    ("int64", "int32"),
    ("int32", "float64"),
    ("float64", "float32"),
    ("float32", "int64"),
    ("int32", "uint32"),
    ("uint64", "int64"),
    ("int64", "bool"),
    ("complex64", "float32"),
]


@pytest.mark.parametrize(("have", "want"), WIDENS)
def test_widening_is_silent_and_exact(have: str, want: str, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2, (3, 4)).astype(have)
    for given in (values, values.T.copy().T, values.astype(np.dtype(have).newbyteorder())):
        array = to_array(given, of(want))
        assert array.dtype == np.dtype(want)
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert (array == values).all()


@pytest.mark.parametrize(("have", "want"), LOSES)
def test_what_could_lose_is_refused_with_the_conversion(have: str, want: str) -> None:
    with pytest.raises(InputError) as caught:
        to_array(np.ones(2, have), of(want))
    assert caught.value.fix == f'x.astype("{want}")'
    if have != "complex64":
        with pytest.raises(InputError) as caught:
            to_array(torch.ones(2, dtype=getattr(torch, have)), of(want))
        assert caught.value.fix == f"x.to(torch.{want})"


@pytest.mark.parametrize(
    ("value", "want", "result"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 2], "float32", [1.0, 2.0]),
        (3, "int64", 3),
        (0.1, "float32", np.float32(0.1)),
        ([1.0, 2.0], "int64", [1, 2]),
        ([[True, False]], "bool", [[True, False]]),
        ([float("nan"), float("inf")], "float32", [float("nan"), float("inf")]),
        ([], "float32", []),
    ],
)
def test_lists_and_numbers_become_the_declared_dtype(value: Any, want: str, result: Any) -> None:
    array = to_array(value, of(want))
    assert array.dtype == np.dtype(want)
    assert np.array_equal(array, np.array(result, want), equal_nan=want.startswith("float"))


@pytest.mark.parametrize(
    ("value", "want", "said"),
    [
        ([1.5], "int64", "holds 1.5 at [0]"),
        ([2**40], "int32", "holds 1099511627776 at [0]"),
        ([2**70], "int64", "more than 64 bits"),
        ([-1], "uint8", "holds -1 at [0]"),
        ([2**24 + 1], "float32", "holds 16777217 at [0]"),
        ([1e300], "float32", "holds 1e+300 at [0]"),
        (["a"], "int64", "text"),
        ([None], "int64", "None"),
        ([1j], "float32", "complex"),
    ],
)
def test_lists_that_cannot_become_it_are_refused(value: Any, want: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        to_array(value, of(want))
    assert said in caught.value.what


def test_torch_tensors_of_every_kind() -> None:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    assert to_array(x.T, of("float32")).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert np.shares_memory(to_array(x, of("float32")), x.detach().numpy())
    assert to_array(torch.ones(2, dtype=torch.complex64).conj(), of("complex64")).tolist() == [1, 1]
    with pytest.raises(InputError, match="to_dense"):
        to_array(torch.eye(2).to_sparse(), of("float32"))
    with pytest.raises(InputError, match=r"x\.cpu\(\)"):
        to_array(torch.ones(2, device="meta"), of("float32"))


def test_bfloat16_goes_in_and_out_as_bits(seed: int) -> None:
    x = torch.randn(5, generator=torch.Generator().manual_seed(seed)).bfloat16()
    bits = to_array(x, of("bfloat16"))
    assert bits.dtype == np.uint16
    assert to_array(bits, of("bfloat16")) is not None
    assert torch.equal(to_result(bits, of("bfloat16"), torch=True), x)
    assert np.array_equal(to_result(bits, of("bfloat16"), torch=False), x.float().numpy())
    for wrong in (np.ones(2, np.float32), torch.ones(2), [1.0]):
        with pytest.raises(InputError, match="bfloat16"):
            to_array(wrong, of("bfloat16"))
    with pytest.raises(InputError, match=r"to\(torch\.float32\)"):
        to_array(x, of("float32"))


def test_results_share_memory_unless_they_are_read_only() -> None:
    array = np.ones(3, np.float32)
    shared = to_result(array, of("float32"), torch=True)
    array[0] = 7
    assert shared[0] == 7
    array.flags.writeable = False
    copied = to_result(array, of("float32"), torch=True)
    copied[0] = 1
    assert array[0] == 7


def test_a_strange_dtype_is_a_format_error() -> None:
    assert all(array_dtype(of(dtype)).isnative for dtype in DTYPES)
    for dtype in ("object", "str", "datetime64", "float8", "O", "float32, (1e9,)float32"):
        with pytest.raises(FormatError):
            array_dtype(of(dtype))


SIZES = [1, FEW_ELEMENTS, FEW_ELEMENTS + 1, 5000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize(("low", "high"), [(0, 9), (2, 9)])
def test_the_domain_is_checked_at_both_ends(dtype: str, low: int, high: int, size: int, seed: int) -> None:
    check = domain_check(of(dtype, "n", domain=Domain(low, high)))
    assert check is not None
    rng = np.random.default_rng(seed)
    array = rng.integers(low, high, size, endpoint=True).astype(dtype)
    array[0] = high
    check(array)
    place = int(rng.integers(size))
    info = np.iinfo(dtype)
    for value in {low - 1, high + 1, info.min, info.max} - set(range(low, high + 1)):
        if info.min <= value <= info.max:
            wrong = array.copy()
            wrong[place] = value
            with pytest.raises(InputError, match=rf"holds {value} at \[{place}\]"):
                check(wrong)


def test_no_check_where_no_array_can_leave_the_domain() -> None:
    assert domain_check(of("int8", domain=Domain(-128, 127))) is None
    assert domain_check(of("float32", domain=Domain(0, 1))) is None
    assert domain_check(of("int64")) is None


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
@pytest.mark.parametrize("rows", [1, 3, 900])
def test_masks_pad_last(dtype: str, rows: int) -> None:
    check = domain_check(of(dtype, "b", "s", domain=Domain(0, 1, "mask")))
    assert check is not None
    mask = np.ones((rows, 4), dtype)
    check(mask)
    mask[-1, 2:] = 0
    check(mask)
    mask[-1] = 0
    check(mask)
    mask[-1, 3] = 1
    with pytest.raises(InputError, match=rf"position 2 of row \[{rows - 1}\]"):
        check(mask)
    check(np.ones((0, 4), dtype))


def test_arrays_on_a_gpu_are_told_from_those_that_are_not() -> None:
    class Interface:
        __cuda_array_interface__ = property(lambda self: {})

    class Pack:
        def __init__(self, kind: int) -> None:
            self.kind = kind

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.kind, 0

    for value in (np.zeros(3), torch.zeros(3), [1.0], 2, None, Pack(1), Pack(3)):
        assert not is_on_gpu(value)
    for value in (Interface(), Pack(2), Pack(13)):
        assert is_on_gpu(value)
