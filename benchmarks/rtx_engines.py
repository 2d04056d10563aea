"""Real engines of ten architectures for every GPU that TensorRT for RTX builds for, and how true their graphs are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Bar, Benchmark, Result, Table
from ingot.backends.contract import Builder, BuildOptions
from ingot.backends.tensorrt.lowering.lower import lower
from ingot.backends.tensorrt.proof import ort_session
from ingot.errors import BuildError, UnsupportedOperatorError, VerificationError
from ingot.frontend.export import Exported, export
from ingot.frontend.source import Source
from ingot.models.engines import REAL, SMALL, Subject
from ingot.passes.contract import run_passes
from ingot.pipeline import passes
from ingot.verify.draw import cases, dim_sizes
from ingot.verify.reference import Reference, to_numpy
from ingot.verify.verify import verify

SEED = 4
SUBJECTS = (*REAL, *SMALL)
ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")


def archs_of(subject: Subject) -> tuple[str, ...]:
    """The oldest has neither bfloat16 nor products of float32 matrices."""
    lacks = subject.dtype == "bfloat16" or (subject.dtype == "float32" and subject.product)
    return ARCHS[1:] if lacks else ARCHS


@dataclass(frozen=True, slots=True)
class Row:
    """`worst_db` of all outputs and cases against eager; `plan_bytes` of the one plan for all archs, 0 without one."""

    subject: Subject
    worst_db: float
    holds: bool
    seconds: float
    plan_bytes: int
    problem: str = ""

    def cells(self) -> Sequence[str]:
        archs = " ".join(arch.removeprefix("sm_") for arch in archs_of(self.subject))
        built = f"{self.plan_bytes:,}" if self.plan_bytes else self.problem
        truth = f"{self.worst_db:.1f}" + ("" if self.holds else " short")
        return (self.subject.name, self.subject.dtype, archs, built, f"{self.seconds:.1f}", truth)


def run() -> Result:
    from ingot.backends.tensorrt_rtx.build import BUILDER

    rows = [measured(subject, BUILDER) for subject in SUBJECTS]
    table = Table(
        "TensorRT for RTX, engines built without a GPU",
        ("model", "dtype", "architectures", "plan bytes", "build s", "worst dB"),
        [row.cells() for row in rows],
        "worst dB: SQNR of the lowered graph on ONNX Runtime against PyTorch eager, the lowest row of all outputs and "
        "cases; none of these engines has run on a GPU",
    )
    values = {
        "rtx_engines": float(sum(row.plan_bytes > 0 for row in rows)),
        "rtx_engines_true": float(sum(row.holds for row in rows)),
    }
    return Result([table], values)


def measured(subject: Subject, builder: Builder) -> Row:
    example = subject.build(SEED)
    source = Source("model", example.module, example.args, dict(example.kwargs), dynamic_shapes=example.dynamic_shapes)
    found = export(source)
    run_passes(found.model, passes())
    try:
        worst_db, holds = _truth(source, found, builder.name), True
    except VerificationError:
        worst_db, holds = float("nan"), False
    began = time.perf_counter()
    try:
        plan_bytes, problem = _built(subject, found, builder), ""
    except (BuildError, UnsupportedOperatorError) as error:
        plan_bytes, problem = 0, str(error).partition("\n")[0][:60]
    return Row(subject, worst_db, holds, time.perf_counter() - began, plan_bytes, problem)


def _truth(source: Source, found: Exported, target: str) -> float:
    reference = Reference(source.module, found.signature, found.call, seed=SEED)
    examples = [to_numpy(tensor) for tensor in found.examples]
    session = ort_session(lower(found.model), found.signature)
    drawn = cases(found.signature, examples, seed=SEED)
    accuracy = verify(session, reference, drawn, signature=found.signature)
    return min(output.measure.worst_db for output in accuracy.outputs)


def _built(subject: Subject, found: Exported, builder: Builder) -> int:
    sizes = dim_sizes(found.signature, [to_numpy(tensor) for tensor in found.examples])
    with tempfile.TemporaryDirectory() as folder:
        options = BuildOptions(
            threads=1, folder=Path(folder), signature=found.signature, sizes=sizes, archs=archs_of(subject)
        )
        built = builder.build(found.model, options)
        plan = built.target.members["plan"]
        return sum(part.size_bytes for part in built.parts if part.name == plan)


BENCHMARK = Benchmark(
    "rtx_engines",
    (
        Bar("rtx_engines", "least", len(SUBJECTS)),
        Bar("rtx_engines_true", "least", len(SUBJECTS)),
    ),
    run,
)
