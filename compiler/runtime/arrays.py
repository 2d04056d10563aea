"""Between what a caller holds (arrays, torch tensors, lists) and the arrays that a session takes and gives.

Array    contiguous, native, of the declared dtype; bfloat16, which numpy lacks, as its bits in uint16.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ingot.errors import FormatError, InputError
from ingot.signature import Tensor

Array = np.ndarray[Any, Any]

DTYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)
"""What an input or output may be declared as."""

FEW_ELEMENTS = 32
"""Up to here a list's min and max are faster than numpy's, and leave the caches to the run that follows."""

_KINDS = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
_DLPACK_GPU = (2, 13)
"""DLPack's kDLCUDA and kDLCUDAManaged."""
_LITERALS = (bool, int, float, complex, list, tuple)


def array_dtype(tensor: Tensor) -> np.dtype[Any]:
    """numpy's dtype of the arrays that stand for `tensor`. Raises FormatError for a dtype that no engine has."""
    if tensor.dtype not in DTYPES:
        raise FormatError(f"the header declares '{tensor.name}' as {tensor.dtype!r:.40}, which is not a dtype")
    return np.dtype("uint16" if tensor.dtype == "bfloat16" else tensor.dtype)


def is_torch(value: object) -> bool:
    """Whether this is a torch tensor. torch is never imported: without it there is no tensor to be."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def is_on_gpu(value: object) -> bool:
    """Whether this is an array in a GPU's memory. No library is imported for it."""
    if isinstance(value, np.ndarray | list):
        return False
    if is_torch(value):
        return bool(value.device.type == "cuda")  # type: ignore[attr-defined]
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in _DLPACK_GPU


def to_array(value: object, tensor: Tensor) -> Array:
    """`value` as an array for the input `tensor`; its shape and domain are not looked at.

    An array or torch tensor must have the declared dtype or one that widens into it whatever the values: int32 to
    int64, float16 to float32, bool to an integer; never float64 to float32, never integers to floats. Lists and
    Python numbers have no dtype: they become the declared one where that is exact, and floats are rounded to it.
    Strides and byte order do not matter. An input in bfloat16 takes torch or ml_dtypes arrays of that dtype, or its
    bits in uint16. Raises InputError.
    """
    if is_torch(value):
        return _cast(_from_torch(value, tensor), tensor, torch=True)
    if isinstance(value, np.ma.MaskedArray):
        raise _wrong(tensor, "is a masked array, and an engine has no masked elements", "{}.filled(0)")
    if isinstance(value, np.ndarray):
        return _cast(value, tensor)
    if isinstance(value, _LITERALS) and not isinstance(value, np.generic):
        return _from_literal(value, tensor)
    try:
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return _cast(np.asarray(value), tensor)
        if hasattr(value, "__dlpack__"):
            return _cast(np.from_dlpack(value), tensor)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise _wrong(tensor, f"cannot be read as an array: {error}", "a numpy array") from error
    raise _wrong(tensor, f"is {_article(value)}", "a numpy array, a torch tensor, or a list of numbers")


def to_result(array: Array, tensor: Tensor, *, torch: bool) -> Any:
    """An output as the caller gets it: a numpy array, or a torch tensor on the same memory.

    bfloat16 becomes torch.bfloat16, or float32 (every value is one) in numpy.
    """
    if torch:
        module = sys.modules["torch"]
        result = module.from_numpy(array if array.flags.writeable else array.copy())
        return result.view(module.bfloat16) if tensor.dtype == "bfloat16" else result
    if tensor.dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def domain_check(tensor: Tensor) -> Callable[[Array], None] | None:
    """What raises InputError, with the first offending place, for an array that leaves its domain: integers outside,
    or a mask whose padding does not come last.

    None where no array of the dtype can.
    """
    dtype, domain = array_dtype(tensor), tensor.domain
    if domain is None or dtype.kind not in "iub" or tensor.dtype == "bfloat16":
        return None
    low, high, is_mask = domain.low, domain.high, domain.role == "mask"
    bounds = None if dtype.kind == "b" else np.iinfo(dtype)
    if not is_mask and (bounds is None or (low <= bounds.min and high >= bounds.max)):
        return None

    full = _FullMasks(dtype) if is_mask else {}

    def check(array: Array) -> None:
        if 0 < array.size <= FEW_ELEMENTS:
            if is_mask and array.tobytes() == full[array.size]:
                return
            values = array.ravel().tolist()
            least, greatest = min(values), max(values)
        elif array.size:
            least, greatest = array.item(array.argmin()), array.item(array.argmax())
        else:
            return
        if least < low or greatest > high:
            raise _outside(array, tensor)
        if is_mask and least == 0:
            _check_padding(array, tensor)

    return check


class _FullMasks(dict[int, bytes]):
    """The bytes of a mask of ones for each size."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._dtype = dtype

    def __missing__(self, size: int) -> bytes:
        self[size] = np.ones(size, self._dtype).tobytes()
        return self[size]


def _check_padding(mask: Array, tensor: Tensor) -> None:
    if mask.ndim == 0:
        return
    rising = mask[..., 1:] > mask[..., :-1]
    if rising.any():
        index = [int(i) for i in np.argwhere(rising)[0]]
        row = f" of row {index[:-1]}" if index[:-1] else ""
        raise InputError(
            f"mask '{tensor.name}' pads in front: position {index[-1]}{row} is 0 and the next one is 1",
            where=str(tensor),
            fix="padding at the end, for which the engine was verified; a tokenizer's padding_side='right'",
        )


def _from_torch(value: Any, tensor: Tensor) -> Array:
    torch = sys.modules["torch"]
    if value.device.type != "cpu":
        raise _wrong(tensor, f"is on {value.device}, and this engine reads the CPU's memory", "{}.cpu()")
    try:
        plain = value.detach().resolve_conj().resolve_neg()
        if plain.dtype == torch.bfloat16:
            if tensor.dtype != "bfloat16":
                raise _wrong(tensor, f"is bfloat16, and must be {tensor.dtype}", f"{{}}.to(torch.{tensor.dtype})")
            plain = plain.view(torch.uint16)
        elif tensor.dtype == "bfloat16":
            had = str(plain.dtype).removeprefix("torch.")
            raise _wrong(tensor, f"is {had}, and must be bfloat16", "{}.to(torch.bfloat16)")
        array: Array = plain.numpy()
    except (RuntimeError, TypeError) as error:
        raise _wrong(tensor, f"cannot be read as an array: {error}", "{}.to_dense(), a plain strided tensor") from error
    return array


def _from_literal(value: object, tensor: Tensor) -> Array:
    want = array_dtype(tensor)
    try:
        plain = np.array(value)
    except (TypeError, ValueError, RuntimeError) as error:
        said = "whose rows differ in length" if "inhomogeneous" in str(error) else f"that numpy cannot read: {error}"
        raise _wrong(tensor, f"is a list {said}", f"an array of {_noun(want)}") from error
    if plain.dtype.kind not in _KINDS or (plain.dtype.kind == "c" and want.kind != "c"):
        raise _wrong(tensor, f"holds {_strange(plain)}", f"a list of {_noun(want)}")
    if tensor.dtype == "bfloat16":
        raise _wrong(tensor, "is a list, and numpy has no bfloat16 to read it as", "torch.tensor({}).bfloat16()")
    with np.errstate(over="ignore", invalid="ignore"):
        array = plain.astype(want, order="C")
        rounded = want.kind == "c" or (want.kind == "f" and plain.dtype.kind == "f")
        same = np.isfinite(array) | ~np.isfinite(plain) if rounded else array.astype(plain.dtype) == plain
    if not same.all():
        index = tuple(int(i) for i in np.argwhere(~same)[0])
        raise _wrong(tensor, f"holds {plain[index]} at {list(index)}, which {want} cannot", f"a list of {_noun(want)}")
    return array


def _cast(array: Array, tensor: Tensor, *, torch: bool = False) -> Array:
    want = array_dtype(tensor)
    if array.dtype.name == "bfloat16" and tensor.dtype == "bfloat16":
        array = array.view(want)
    elif tensor.dtype == "bfloat16" and array.dtype != want:
        raise _wrong(
            tensor, f"is {array.dtype.name}, and must be bfloat16, which numpy lacks", "torch.from_numpy({}).bfloat16()"
        )
    if array.dtype.hasobject:
        raise _wrong(
            tensor, "is an array of Python objects", f'{{}}.astype("{want}"), where all of them are {_noun(want)}'
        )
    if not _widens(array.dtype, want):
        fix = f"{{}}.to(torch.{tensor.dtype})" if torch else f'{{}}.astype("{want}")'
        raise _wrong(tensor, f"is {array.dtype.name}, and must be {tensor.dtype}", fix)
    return np.require(array, want, ["C", "A", "E"])


def _widens(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """bool and integers widen among themselves, floats among themselves."""
    if have.kind not in _KINDS or not np.can_cast(have, want, "safe"):
        return False
    return (_KINDS[have.kind] or 1) == (_KINDS[want.kind] or 1)


def _outside(array: Array, tensor: Tensor) -> InputError:
    assert tensor.domain is not None
    low, high = tensor.domain.low, tensor.domain.high
    index = tuple(int(i) for i in np.argwhere((array < low) | (array > high))[0])
    fix = "1 for what counts, 0 for padding" if tensor.domain.role == "mask" else f"integers in {low}..{high}"
    what = f"input '{tensor.name}' holds {array[index]} at {list(index)}, outside {tensor.domain}"
    return InputError(what, where=str(tensor), fix=fix)


def _wrong(tensor: Tensor, what: str, fix: str) -> InputError:
    """`{}` in `fix` stands for the input's name."""
    name = tensor.name.rpartition(".")[2]
    fix = fix.format(name if name.isidentifier() else "array")
    return InputError(f"input '{tensor.name}' {what}", where=str(tensor), fix=fix)


def _article(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _strange(plain: Array) -> str:
    """What keeps the elements from being numbers."""
    if plain.dtype.kind in "US":
        return "text"
    if not plain.dtype.hasobject:
        return f"{plain.dtype.name} values"
    odd = next((item for item in plain.flat if not isinstance(item, int | float)), plain)
    if odd is plain:
        return "an integer of more than 64 bits"
    return "None" if odd is None else _article(odd)


def _noun(dtype: np.dtype[Any]) -> str:
    return {"b": "True and False", "f": "numbers", "c": "numbers"}.get(dtype.kind, "integers")
