"""DLPack's capsules: what numpy and torch make of ours, and what we make of theirs, on the CPU, where both can read."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from ingot.device import dlpack
from ingot.errors import InputError

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32"]
DTYPES += ["float64", "complex64", "complex128"]
SHAPES = [(), (1,), (3, 4), (2, 1, 5), (0, 3)]


class Lent:
    """Memory of the host, under our capsules."""

    def __init__(self, array: Any, dtype: str | None = None, *, versioned: bool = True) -> None:
        self.array, self.dtype, self.versioned = array, dtype or str(array.dtype), versioned

    def __dlpack__(self, *, max_version: Any = None, **options: Any) -> Any:
        shape, pointer = self.array.shape, self.array.ctypes.data
        limit = max_version if self.versioned else None
        return dlpack.make(pointer, shape, self.dtype, (dlpack.CPU, 0), self, max_version=limit)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    return np.ascontiguousarray(np.random.default_rng(seed).integers(0, 2, shape)).astype(dtype).reshape(shape)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_numpy_takes_ours(shape: tuple[int, ...], dtype: str, versioned: bool, seed: int) -> None:
    array = drawn(shape, dtype, seed)
    got = np.from_dlpack(Lent(array, versioned=versioned))
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert np.array_equal(got, array)
    assert array.size == 0 or np.shares_memory(got, array)


def test_torch_takes_ours_and_bfloat16(seed: int) -> None:
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float32)
    assert np.array_equal(torch.from_dlpack(Lent(array)).numpy(), array)
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    got = torch.from_dlpack(Lent(bits, "bfloat16"))
    assert got.dtype == torch.bfloat16
    assert np.array_equal(got.view(torch.uint16).numpy(), bits)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("take", [np.from_dlpack, lambda lent: lent.__dlpack__()], ids=["taken", "never taken"])
def test_the_owner_lives_as_long_as_its_taker(take: Any, versioned: bool) -> None:
    lent = Lent(np.arange(6), versioned=versioned)
    alive, held = weakref.ref(lent), len(dlpack._held)
    got = take(lent)
    del lent
    gc.collect()
    assert alive() is not None
    assert len(dlpack._held) == held + 1
    del got
    gc.collect()
    assert alive() is None
    assert len(dlpack._held) == held


@pytest.mark.parametrize("options", [{}, {"max_version": (1, 0)}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_takes_numpys(shape: tuple[int, ...], dtype: str, options: dict[str, Any], seed: int) -> None:
    array = drawn(shape, dtype, seed)
    taken = dlpack.take(array.__dlpack__(**options))
    assert (taken.shape, taken.dtype, taken.device) == (array.shape, dtype, (dlpack.CPU, 0))
    assert ctypes.string_at(taken.pointer, array.nbytes) == array.tobytes()


def test_takes_torchs_bfloat16_and_strides() -> None:
    torch = pytest.importorskip("torch")
    taken = dlpack.take(torch.zeros(2, 3, dtype=torch.bfloat16).T.__dlpack__())
    assert (taken.dtype, taken.shape, taken.strides) == ("bfloat16", (3, 2), (1, 3))
    view = torch.arange(10)[4:]
    assert dlpack.take(view.__dlpack__()).pointer == view.data_ptr()


def test_read_only_arrays_are_known() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    assert dlpack.take(array.__dlpack__(max_version=(1, 0))).read_only
    assert not dlpack.take(np.arange(3).__dlpack__(max_version=(1, 0))).read_only


@pytest.mark.parametrize("options", [{}, {"max_version": (1, 0)}])
def test_what_was_taken_is_given_back_once(options: dict[str, Any]) -> None:
    array = np.arange(12)
    alive = weakref.ref(array)
    capsule = array.__dlpack__(**options)
    taken = dlpack.take(capsule)
    del array, capsule
    gc.collect()
    assert alive() is not None
    del taken
    gc.collect()
    assert alive() is None


def test_a_capsule_is_taken_once_and_must_be_one() -> None:
    capsule = np.arange(3).__dlpack__()
    dlpack.take(capsule)
    with pytest.raises(InputError, match="taken before"):
        dlpack.take(capsule)
    with pytest.raises(InputError, match="no DLPack capsule"):
        dlpack.take(object())


def test_an_unknown_version_is_refused_and_left_alone() -> None:
    array = np.arange(3)
    capsule = dlpack.make(array.ctypes.data, (3,), "int64", (dlpack.CPU, 0), array, max_version=(1, 0))
    address = next(reversed(dlpack._held))
    dlpack._Versioned.from_address(address).major = 2
    with pytest.raises(InputError, match=r"DLPack 2\.0"):
        dlpack.take(capsule)
    assert address in dlpack._held
    del capsule
    assert address not in dlpack._held
