"""Arrays for the commands: read from .npz, drawn inside what a signature declares, written whole."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ingot.errors import UsageError
from ingot.runtime.arrays import array_dtype
from ingot.signature import Dim, Signature, Tensor
from ingot.verify.draw import shape_of

Array = np.ndarray[Any, Any]

_NPZ = "numpy.savez('inputs.npz', NAME=array, …) writes one array for each input"

USUAL_SIZE = 16
"""The size of a drawn dim that nobody gave, unless it leads an input (batch): that is 1."""


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
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"'{path}' is not readable as .npz: {error}", fix=_NPZ) from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an .npz, whole or not at all. Raises UsageError where `path` cannot be written."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", suffix=".tmp", delete=False
        ) as stream:
            temporary = stream.name
            # numpy takes names as keywords, among which its own `file` and `allow_pickle` would collide.
            with zipfile.ZipFile(stream, "w") as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UsageError(
            f"'{path}' cannot be written: {error.strerror}", fix="a folder that exists and is writable"
        ) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def read_sizes(signature: Signature, texts: Sequence[str]) -> dict[str, int]:
    """A size for every dim: from "batch=2,sequence=16", or a usual one. Raises UsageError for what is out of bounds."""
    sizes = {dim.name: _usual(signature, dim) for dim in signature.dims}
    for part in ",".join(texts).split(",") if texts else ():
        name, _, size = part.partition("=")
        name = name.strip()
        if name not in sizes:
            has = ", ".join(map(str, signature.dims)) or "none: every size is fixed"
            raise UsageError(f"the engine has no dim '{name}'; it has {has}", fix=_example(signature))
        if not size.strip().isdigit():
            raise UsageError(f"'{part}' gives no size", fix=_example(signature))
        dim, value = signature.dim(name), int(size)
        if value < dim.min or (dim.max is not None and value > dim.max):
            raise UsageError(f"{name} is {value}, and may be {str(dim).partition(':')[2]}", fix=_example(signature))
        sizes[name] = value
    return sizes


def draw_inputs(signature: Signature, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Inputs by name: floats normal, integers inside their domain (0 and 1 where none is declared), masks all ones."""
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
