"""Lets TensorRT's ONNX parser find its own library under the name without a version, which wheels do not ship.

The parser opens `libtensorrt_rtx.so` when it adds a plugin, and ends the process where that fails. So an empty library
of that name, which needs the one that is there, is written byte by byte and loaded: no compiler, no link in the user's
environment, no variable that must be set before Python starts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import cache

from ingot.backends.tensorrt.flavours import Flavour

SHIMS = {"tensorrt_rtx": ("libtensorrt_rtx.so", "libtensorrt_rtx.so.1")}
"""By Python's module: the name that the parser opens, and the library that the wheel ships."""

_MACHINES = {"x86_64": 62, "aarch64": 183}
"""ELF's numbers."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_SYMBOL_BYTES = 24
_LOAD, _DYNAMIC, _STACK = 1, 2, 0x6474E551
_READ_WRITE = 6
_PAGE_BYTES = 0x10000
"""The largest page of any machine that it may run on."""

_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 1, 4, 5, 6, 10, 11, 14


def preload(flavour: Flavour) -> None:
    """Call it after the flavour's package is imported. Raises OSError where that has not loaded its library."""
    if flavour.module in SHIMS:
        _load(*SHIMS[flavour.module])


@cache
def _load(name: str, needed: str) -> ctypes.CDLL:
    """The library `name`, its symbols those of `needed`; it stands before one of that name on the loader's path."""
    descriptor = os.memfd_create(name)
    try:
        os.write(descriptor, shim(name, needed, _MACHINES[platform.machine()]))
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(descriptor)


def shim(name: str, needed: str, machine: int) -> bytes:
    """An ELF64 shared library without code, with the SONAME `name`, that needs `needed`.

    One segment, read and written (the loader writes addresses into the dynamic section), holds it all: the headers, the
    dynamic section, a symbol table of the one empty symbol, its hash table, the names.
    """
    segments = 3
    dynamic = _HEADER.size + segments * _SEGMENT.size
    names = b"\0" + name.encode() + b"\0" + needed.encode() + b"\0"
    entries = 8
    symbols = dynamic + entries * _ENTRY.size
    hashes = symbols + _SYMBOL_BYTES
    strings = hashes + 5 * 4
    size = strings + len(names)
    section = [
        (_NEEDED, 2 + len(name)),
        (_SONAME, 1),
        (_HASH, hashes),
        (_STRTAB, strings),
        (_SYMTAB, symbols),
        (_STRSZ, len(names)),
        (_SYMENT, _SYMBOL_BYTES),
        (0, 0),
    ]
    assert len(section) == entries
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = _HEADER.pack(
        identity, 3, machine, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, segments, 0, 0, 0
    )
    dynamic_bytes = entries * _ENTRY.size
    table = [
        _SEGMENT.pack(_LOAD, _READ_WRITE, 0, 0, 0, size, size, _PAGE_BYTES),
        _SEGMENT.pack(_DYNAMIC, _READ_WRITE, dynamic, dynamic, dynamic, dynamic_bytes, dynamic_bytes, 8),
        # Without it the loader would ask for a stack that code runs on.
        _SEGMENT.pack(_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16),
    ]
    one_bucket_and_one_symbol = struct.pack("<5I", 1, 1, 0, 0, 0)
    return b"".join(
        [
            header,
            *table,
            *(_ENTRY.pack(tag, value) for tag, value in section),
            bytes(_SYMBOL_BYTES),
            one_bucket_and_one_symbol,
            names,
        ]
    )
