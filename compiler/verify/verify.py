"""Holds an engine to PyTorch eager on every case, or says where it leaves the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from ingot.errors import EngineError, InputError, VerificationError
from ingot.runtime.metrics import FLOOR_DB, rms_noise
from ingot.signature import Signature
from ingot.verify.compare import OutputAccuracy, judge
from ingot.verify.draw import Case
from ingot.verify.locate import Located
from ingot.verify.reference import Reference

Array = np.ndarray[Any, Any]

Locate = Callable[[Case, Sequence[Array]], Located | None]
"""Given a case and eager's outputs: where the error begins."""


class Runnable(Protocol):
    """A loaded target as verification sees it: flat arrays in, flat arrays out, in the order of the signature."""

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]: ...


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What verification measured: each output where it was worst, and the cases it ran."""

    outputs: tuple[OutputAccuracy, ...]
    cases: tuple[Case, ...]
    seed: int | None

    @property
    def worst(self) -> OutputAccuracy:
        return max(self.outputs, key=lambda output: output.short_db)

    def to_json(self) -> dict[str, Any]:
        """For record.json."""
        return {
            "reference": "PyTorch eager",
            "seed": self.seed,
            "outputs": [output.to_json() for output in self.outputs],
            "cases": [
                {"name": case.name, "origin": case.origin, "shapes": [list(array.shape) for array in case.inputs]}
                for case in self.cases
            ],
        }


def verify(
    engine: Runnable,
    reference: Reference,
    cases: Sequence[Case],
    *,
    signature: Signature,
    seed: int | None = None,
    locate: Locate | None = None,
    progress: Callable[[str], None] | None = None,
    fix: str | None = None,
) -> Accuracy:
    """Runs every case through both and judges every output.

    `seed` is what the cases were drawn with: an error says how to replay them. `fix` is what it says to type instead.
    Raises VerificationError, naming the worst output, its case, the measured and the needed dB, and, with `locate`,
    the first node and source line where the error leaves the bound; also when the engine raises on a case. Raises
    SourceError when the model itself raises on one.
    """
    worst: dict[str, OutputAccuracy] = {}
    advice = fix or _advice(seed)
    failed: tuple[OutputAccuracy, Case, Sequence[Array]] | None = None

    @cache
    def exact(index: int) -> Sequence[Array] | None:
        return reference.exact(cases[index])

    @cache
    def typical_noise() -> list[float]:
        return _typical_noise(reference, cases, exact)

    for index, case in enumerate(cases):
        if progress:
            progress(case.name)
        expected = reference.run(case)
        got = _run(engine, case, advice)
        for output in judge(signature, case, expected, got, partial(exact, index), typical_noise):
            if output.name not in worst or output.short_db > worst[output.name].short_db:
                worst[output.name] = output
            if not output.measure.holds and (failed is None or output.short_db > failed[0].short_db):
                failed = output, case, expected
    if failed:
        raise _failure(*failed, reference, advice, locate)
    return Accuracy(tuple(worst[tensor.name] for tensor in signature.outputs), tuple(cases), seed)


def _run(engine: Runnable, case: Case, advice: str) -> Sequence[Array]:
    try:
        return engine.run([array.copy() for array in case.inputs])
    except (EngineError, InputError) as error:
        raise VerificationError(
            f"the engine cannot run inputs that its declared shapes allow, {case.name}: {error.what}",
            where=error.where,
            fix=advice,
        ) from error


def _typical_noise(
    reference: Reference, cases: Sequence[Case], exact: Callable[[int], Sequence[Array] | None]
) -> list[float]:
    """Eager's rms noise against float64 for each output, the greatest of all cases."""
    outputs = reference.signature.outputs
    noise = [0.0] * len(outputs)
    for number, case in enumerate(cases):
        wide = exact(number)
        if wide is None:
            continue
        expected = reference.run(case)
        for index, tensor in enumerate(outputs):
            if tensor.dtype in FLOOR_DB:
                noise[index] = max(noise[index], rms_noise(expected[index], wide[index], tensor.dtype))
    return noise


def _failure(
    output: OutputAccuracy,
    case: Case,
    expected: Sequence[Array],
    reference: Reference,
    advice: str,
    locate: Locate | None,
) -> VerificationError:
    located = locate(case, expected) if locate else None
    tie = _tie(output, case, expected, reference)
    return VerificationError(
        f"the engine does not compute what the model computes: {output}, on {case.name}{tie}",
        where=str(located) if located else None,
        fix=advice,
    )


def _tie(output: OutputAccuracy, case: Case, expected: Sequence[Array], reference: Reference) -> str:
    """Said of a value that eager itself, in float64, computes differently: rejected all the same."""
    index = [tensor.name for tensor in reference.signature.outputs].index(output.name)
    array = expected[index]
    if output.measure.undecided:
        places = "1 row or outlier" if output.measure.undecided == 1 else f"{output.measure.undecided} rows or outliers"
        return (
            f".\n  PyTorch eager in float64 gives other values ({places}): a tie or chaotic value that rounding "
            "decides, as round, argmax and the sine of large numbers have. It excuses no error; x.double() before that "
            "step, or the step left outside the model, takes the decision from rounding"
        )
    if array.dtype.kind not in "biu" or not output.measure.max_abs_error:
        return ""
    exact = reference.exact(case)
    if exact is None or exact[index].shape != array.shape or np.array_equal(exact[index], array):
        return ""
    return (
        ".\n  PyTorch eager in float64 gives other values: a tie that rounding decides, as argmax and topk have. "
        "Integers are exact here; returning the scores beside them shows how near they are"
    )


def _advice(seed: int | None) -> str:
    replay = "" if seed is None else f"INGOT_SEED={seed} replays these inputs; "
    return (
        f"{replay}--verify off writes the engine anyway, marked unverified: "
        "load then refuses it without allow_unverified=True"
    )
