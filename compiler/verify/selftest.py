"""The self-test vectors that an engine file carries: inputs, and what PyTorch eager made of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ingot.file.write import Part
from ingot.signature import Signature
from ingot.verify.draw import Case
from ingot.verify.reference import Reference

Array = np.ndarray[Any, Any]

MEMBER = "selftest.npz"

LIMIT_BYTES = 1 << 18
"""Of inputs and outputs of all cases together: vectors are for every file, also a small model's."""


def selftest_part(signature: Signature, reference: Reference, cases: Sequence[Case]) -> Part | None:
    """The cases that fit under the limit, the smallest first; None where not even one does.

    Raises SourceError where the model raises on a case.
    """
    arrays: dict[str, Array] = {}
    used = 0
    smallest = sorted(cases, key=lambda case: sum(array.nbytes for array in case.inputs))
    for index, case in enumerate(smallest):
        outputs = reference.run(case)
        used += sum(array.nbytes for array in [*case.inputs, *outputs])
        if used > LIMIT_BYTES:
            break
        for tensor, array in zip(signature.inputs, case.inputs, strict=True):
            arrays[f"{index}/in/{tensor.name}"] = array
        for tensor, array in zip(signature.outputs, outputs, strict=True):
            arrays[f"{index}/out/{tensor.name}"] = array
    return Part.of(MEMBER, _npz(arrays)) if arrays else None


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """As numpy.savez writes it, but with the same bytes each time: numpy stamps the hour into the archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return stream.getvalue()
