"""Arrays for the commands: read from .npz, drawn inside what a signature declares, written whole."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import UsageError
from ingot.file import atomic
from ingot.runtime.arrays import array_dtype
from ingot.signature import Dim, Signature, Tensor
from ingot.verify.draw import shape_of

Array = np.ndarray[Any, Any]

_NOT_NPZ = (
    *(OSError, EOFError, ValueError, KeyError, OverflowError, MemoryError),
    # zipfile: encrypted members, and as its subclass NotImplementedError methods of compression.
    *(zipfile.BadZipFile, zlib.error, RuntimeError),
)

_NPZ = "numpy.savez('inputs.npz', NAME=array, …) writes one array for each input"

USUAL_SIZE = 16
"""The size of a drawn dim that nobody gave, unless it leads an input (batch): that is 1."""

MOST_ELEMENTS = 2**30
"""Of all drawn inputs together: 8 GiB of integers."""

_SIZE_DIGITS = 18


def read_arrays(path: str) -> dict[str, Array]:
    """The arrays of an .npz file by name. Raises UsageError where it is not one, or holds Python objects."""
    try:
        with open(path, "rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UsageError(f"'{path}' holds one array without a name", fix=_NPZ)
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"there is no file '{path}'", fix=_NPZ) from None
    except _NOT_NPZ as error:
        raise UsageError(f"'{path}' is not readable as .npz: {error or type(error).__name__}", fix=_NPZ) from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an .npz, whole or not at all. Raises UsageError or IngotError where `path` cannot be written."""
    target = atomic.destination(path, "out.npz")
    temporary = atomic.temporary(target.parent, target.name)
    try:
        with open(atomic.create(temporary), "wb") as stream:
            # numpy takes names as keywords, among which its own `file` and `allow_pickle` would collide.
            with zipfile.ZipFile(stream, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
            stream.flush()
            atomic.publish(temporary, stream.fileno(), target)
    except OSError as error:
        raise atomic.cannot_write(target.parent, error) from error
    finally:
        # Where it was published, nothing has that name.
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_sizes(signature: Signature, texts: Sequence[str]) -> dict[str, int]:
    """A size for every dim: from "batch=2,sequence=16", or a usual one. Raises UsageError for what is out of bounds."""
    sizes = {dim.name: _usual(signature, dim) for dim in signature.dims}
    for part in ",".join(texts).split(",") if texts else ():
        name, size = (text.strip() for text in part.partition("=")[::2])
        if name not in sizes:
            has = ", ".join(map(str, signature.dims)) or "none: every size is fixed"
            raise UsageError(f"the engine has no dim '{name}'; it has {has}", fix=_example(signature))
        if not (size.isascii() and size.isdecimal() and len(size) <= _SIZE_DIGITS):
            raise UsageError(f"'{part:.80}' gives no size", fix=_example(signature))
        dim, value = signature.dim(name), int(size)
        if value < dim.min or (dim.max is not None and value > dim.max):
            raise UsageError(f"{name} is {value}, and may be {str(dim).partition(':')[2]}", fix=_example(signature))
        sizes[name] = value
    return sizes


def draw_inputs(signature: Signature, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Inputs by name: floats normal, integers inside their domain (0 and 1 where none is declared), masks all ones.

    Raises UsageError for more than MOST_ELEMENTS, before any is drawn.
    """
    elements = sum(math.prod(shape_of(tensor, sizes)) for tensor in signature.inputs)
    if elements > MOST_ELEMENTS:
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise UsageError(
            f"inputs of {given or 'fixed sizes'} have {elements:,} elements; drawn ones have up to {MOST_ELEMENTS:,}",
            fix=_example(signature),
        )
    rng = np.random.default_rng(seed)
    return {tensor.name: _draw(tensor, shape_of(tensor, sizes), rng) for tensor in signature.inputs}


def _draw(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype, domain = array_dtype(tensor), tensor.domain
    if domain is not None and domain.role == "mask":
        return np.ones(shape, dtype)
    if tensor.dtype == "bfloat16":
        return (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    low, high = (0, 1) if domain is None else (domain.low, domain.high)
    return np.asarray(rng.integers(low, high, shape, endpoint=True)).astype(dtype)


def _usual(signature: Signature, dim: Dim) -> int:
    leads = any(tensor.shape and tensor.shape[0] == dim.name for tensor in signature.inputs)
    return min(max(1 if leads else USUAL_SIZE, dim.min), dim.max or USUAL_SIZE)


def _example(signature: Signature) -> str:
    sizes = ",".join(f"{dim.name}={_usual(signature, dim)}" for dim in signature.dims)
    return f"--shape {sizes}" if sizes else "leave --shape out"
