"""Measures an engine on the self-test vectors in its own file: its accuracy on this machine, without torch."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.errors import FormatError, UsageError
from ingot.runtime.arrays import Array, array_dtype
from ingot.runtime.check import naming
from ingot.runtime.engine import Engine
from ingot.runtime.metrics import FLOOR_DB, Measure, measure
from ingot.runtime.report import number
from ingot.signature import Tensor

LEAST_FLOOR_DB = 40.0
"""The least that a record can lower a floor to, an error of 1 percent, or the dtype's own floor where that is lower.

Anyone can write a record, which the header does not cover: without a limit it could make any engine "hold".
"""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """One output on one case: PyTorch eager's result when it was compiled against the engine's here."""

    case: str
    output: str
    measure: Measure


def run_selftest(engine: Engine) -> list[SelfTest]:
    """Runs every case of the file; an output is held to its dtype's floor, or to what the record says was accepted.

    Raises UsageError where the file carries no vectors, FormatError where they do not fit its own signature.
    """
    member = engine.header.selftest
    if member is None:
        raise UsageError(f"engine '{engine.name}' carries no self-test vectors", fix="ingot verify FILE MODEL")
    floors = _accepted_floors(engine.report)
    results = []
    with naming(str(engine.path)):
        cases = _read_cases(engine.member(member), engine)
    for case, (inputs, expected) in cases.items():
        got = engine.run_named(inputs)
        for tensor in engine.outputs:
            if tensor.name in expected:
                found = measure(
                    expected[tensor.name], got[tensor.name], tensor.dtype, floor_db=limited_floor(floors, tensor)
                )
                results.append(SelfTest(case, tensor.name, found))
    return results


def _read_cases(archive: bytes, engine: Engine) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
    """case -> (inputs, outputs) by name."""
    known: Mapping[str, dict[str, Tensor]] = {
        "in": {tensor.name: tensor for tensor in engine.inputs},
        "out": {tensor.name: tensor for tensor in engine.outputs},
    }
    cases: dict[str, tuple[dict[str, Array], dict[str, Array]]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as entries:
            for entry in entries.infolist():
                case, side, name = entry.filename.removesuffix(".npy").split("/", 2)
                if not case.isprintable():
                    raise ValueError(f"{case!r:.80} is no name of a case")
                tensor = known[side][name]
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"'{entry.filename}' is compressed")
                inputs, outputs = cases.setdefault(case, ({}, {}))
                (inputs if side == "in" else outputs)[name] = _read_array(entries.read(entry), tensor)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"the self-test vectors are not readable: {error!r}", where=str(engine.path)) from error
    for case, (inputs, outputs) in cases.items():
        if inputs.keys() != known["in"].keys() or not outputs:
            raise FormatError(f"the self-test case '{case}' lacks inputs or outputs", where=str(engine.path))
    return cases


def _read_array(content: bytes, tensor: Tensor) -> Array:
    """numpy's own reader would first allocate what the header claims; here the bytes must be there."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"the array of '{tensor.name}' is not in version 1.0 of numpy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    values = content[stream.tell() :]
    if dtype != array_dtype(tensor) or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"the array of '{tensor.name}' is not the {tensor.dtype} that it should be")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")


def limited_floor(floors: Mapping[str, float], tensor: Tensor) -> float | None:
    """The floor that the record says of this output, where LEAST_FLOOR_DB lets it; None where it says none."""
    floor = floors.get(tensor.name)
    return None if floor is None else max(floor, min(LEAST_FLOOR_DB, FLOOR_DB.get(tensor.dtype, LEAST_FLOOR_DB)))


def _accepted_floors(report: Mapping[str, Any]) -> dict[str, float]:
    """Outputs that lose more than the table's floor in eager itself were accepted lower; the record says how far."""
    accuracy = report.get("accuracy")
    outputs = accuracy.get("outputs") if isinstance(accuracy, dict) else None
    said = [item for item in outputs if isinstance(item, dict)] if isinstance(outputs, list) else []
    return {
        str(item.get("name")): floor
        for item in said
        if (floor := number(item.get("floor_db"))) is not None and math.isfinite(floor)
    }
