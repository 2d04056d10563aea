"""A compile up to the builder's call, written as a folder with a script that finishes it on another machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ingot.backends.targets import builder, check_buildable
from ingot.backends.tensorrt.build import TensorRtBuilder
from ingot.backends.tensorrt.emit import check_folder, emit
from ingot.errors import UsageError
from ingot.file.write import Draft
from ingot.frontend.source import Source
from ingot.frontend.structure import evaluating
from ingot.pipeline import CompileOptions, header_of, hold, parts_of, to_build, trace
from ingot.progress import Progress
from ingot.verify.targets import hold_target


def emit_source(source: Source, options: CompileOptions, folder: Path, *, progress: Progress) -> None:
    """The one TensorRT target of `options` prepared in `folder`, what stands in for it held to eager; the other targets
    are built and go into the file that is finished there.

    Raises UsageError where no target can be emitted or `folder` holds something, CompileError as a compile does.
    """
    name, prepared_by = _emitted(options)
    others = [other for other in options.targets if other != name]
    check_buildable(others)
    check_folder(folder)
    with evaluating(source.module), tempfile.TemporaryDirectory(prefix=".ingot-build-", dir=folder.parent) as scratch:
        traced = trace(source, options, progress)
        with traced.steps.step("build"):
            prepared = prepared_by.prepare(*to_build(traced, name, Path(scratch)))
            built = [builder(other).build(*to_build(traced, other, Path(scratch))) for other in others]
        with traced.steps.step("verify"):
            if options.verify != "off":
                proofs = [(proof.what, proof.open) for proof in prepared.proofs()]
                hold_target(name, proofs, traced.measure, progress.detail)
            if built:
                with Draft(Path(scratch), source.name, header_of(traced, built), parts_of(traced, built)) as draft:
                    hold(draft, built, traced)
        with traced.steps.step("write"):
            emit(prepared, folder, header_of(traced, built), parts_of(traced, built))


def _emitted(options: CompileOptions) -> tuple[str, TensorRtBuilder]:
    able = {name: found for name in options.targets if isinstance(found := builder(name), TensorRtBuilder)}
    if len(able) != 1:
        raise UsageError(
            f"--emit writes one TensorRT target, and --target names {len(able)}", fix="--target tensorrt --emit DIR"
        )
    return next(iter(able.items()))
