"""DLPack by ctypes: the capsules in which libraries hand each other arrays without a copy, made and taken apart.

The structures are those of DLPack's own header, dlpack.h, version 1.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any, NamedTuple

from ingot.errors import InputError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13

VERSION = (1, 0)

_READ_ONLY = 1

_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class _Form(NamedTuple):
    """One of the two kinds of capsule; CPython keeps the names' addresses, so they must live as long as it does."""

    name: bytes
    used: bytes
    structure: type[_Managed] | type[_Versioned]


_OLD = _Form(b"dltensor", b"used_dltensor", _Managed)
_NEW = _Form(b"dltensor_versioned", b"used_dltensor_versioned", _Versioned)

_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def _python(name: str, result: Any, *arguments: Any) -> Any:
    """A function of CPython's own API, with a prototype of ours: ctypes.pythonapi's is everybody's."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_pointer_of = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
# The destructor sees a capsule without references, which no py_object may be made of.
_dying_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_dying_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)

_held: dict[int, tuple[Any, Any, Any]] = {}
"""By the address of the structure: itself, its shape and strides, and the owner of the memory, until it is deleted."""


def _delete(address: int | None) -> None:
    _held.pop(address or 0, None)


def _destroy(capsule: int | None) -> None:
    """A capsule that nobody took."""
    for form in (_OLD, _NEW):
        if _dying_is_valid(capsule, form.name):
            _held.pop(_dying_pointer(capsule, form.name), None)


_DELETE, _DESTROY = _Deleter(_delete), _Destructor(_destroy)


def make(
    pointer: int,
    shape: tuple[int, ...],
    dtype: str,
    device: tuple[int, int],
    owner: object,
    *,
    max_version: tuple[int, int] | None = None,
) -> Any:
    """A capsule over contiguous memory; `owner` is kept until the one who took the capsule is done with it.

    `device` is (CPU or CUDA, its number); `max_version` is what the taker understands, None: no versioned capsule.
    """
    form = _NEW if max_version is not None and tuple(max_version) >= VERSION else _OLD
    managed = form.structure()
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # Never of length 0: some take a null shape for a mistake.
    places = (ctypes.c_int64 * max(1, len(shape)))(*shape), (ctypes.c_int64 * max(1, len(shape)))(*steps)
    tensor = managed.tensor
    tensor.data = pointer
    tensor.device = _Device(*device)
    tensor.ndim = len(shape)
    tensor.dtype = _data_type(dtype)
    tensor.shape, tensor.strides = (ctypes.cast(place, ctypes.POINTER(ctypes.c_int64)) for place in places)
    tensor.byte_offset = 0
    managed.deleter = _DELETE
    if isinstance(managed, _Versioned):
        managed.major, managed.minor = VERSION
        managed.flags = 0
    address = ctypes.addressof(managed)
    _held[address] = (managed, places, owner)
    try:
        return _new(address, form.name, _DESTROY)
    except BaseException:
        del _held[address]
        raise


class Taken(NamedTuple):
    """What a capsule holds. `strides` in elements, None: contiguous; `owner` gives the memory back when dropped."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]
    read_only: bool
    owner: object


def take(capsule: Any) -> Taken:
    """Takes a capsule over, as its maker's protocol asks: once. Raises InputError for what is none, or was taken."""
    form = next((form for form in (_NEW, _OLD) if _is_valid(capsule, form.name)), None)
    if form is None:
        raise InputError("what __dlpack__ gives is no DLPack capsule, or was taken before")
    address = _pointer_of(capsule, form.name)
    managed = form.structure.from_address(address)
    if isinstance(managed, _Versioned) and managed.major != VERSION[0]:
        raise InputError(f"what __dlpack__ gives is of DLPack {managed.major}.{managed.minor}, which is not known")
    tensor = managed.tensor
    rank, dtype = tensor.ndim, _dtype_name(tensor.dtype)
    _rename(capsule, form.used)
    return Taken(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[:rank]) if rank else (),
        strides=tuple(tensor.strides[:rank]) if tensor.strides and rank else None,
        dtype=dtype,
        device=(tensor.device.device_type, tensor.device.device_id),
        read_only=isinstance(managed, _Versioned) and bool(managed.flags & _READ_ONLY),
        owner=_Owner(managed, address),
    )


class _Owner:
    """Calls the maker's deleter once, when nobody needs the memory."""

    def __init__(self, managed: Any, address: int) -> None:
        # A null deleter is allowed: there is nothing to give back.
        if managed.deleter:
            weakref.finalize(self, managed.deleter, address)


def _data_type(dtype: str) -> _DataType:
    """ "float32" and "bfloat16" as DLPack writes them; bool takes a byte."""
    if dtype == "bool":
        return _DataType(_CODES["bool"], 8, 1)
    kind = dtype.rstrip("0123456789")
    return _DataType(_CODES[kind], int(dtype[len(kind) :]), 1)


def _dtype_name(found: _DataType) -> str:
    kind = _KINDS.get(found.code)
    if kind is None or found.lanes != 1:
        return f"a dtype of DLPack's code {found.code} with {found.lanes} lanes of {found.bits} bits"
    return kind if kind == "bool" else f"{kind}{found.bits}"
