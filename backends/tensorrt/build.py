"""Builds the targets `tensorrt` and `tensorrt-rtx`: lowers, refuses what cannot be, and has a child build the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Covered, No, Proof, Yes
from ingot.backends.tensorrt import product
from ingot.backends.tensorrt.child.parse import OUTPUT
from ingot.backends.tensorrt.child.process import Limits, Outcome, reduce_seconds, run
from ingot.backends.tensorrt.child.serve import NetworkSession
from ingot.backends.tensorrt.failure import failure, home_of, read_result, with_piece
from ingot.backends.tensorrt.flavours import FLAVOURS, Flavour
from ingot.backends.tensorrt.lowering.lower import lower
from ingot.backends.tensorrt.operators import table as operators
from ingot.backends.tensorrt.plugin.parts import plugin_parts
from ingot.backends.tensorrt.precisions import lacking
from ingot.backends.tensorrt.profiles import profile
from ingot.backends.tensorrt.proof import ort_session
from ingot.backends.tensorrt.stage import Staged, stage, write_part
from ingot.cuda_driver import this_driver
from ingot.errors import BuildError, UnsupportedOperatorError, UsageError
from ingot.file import atomic
from ingot.file.write import Part
from ingot.installed import installed_version
from ingot.ir.provenance import where
from ingot.signature import Signature, Tensor

CHILD = "ingot.backends.tensorrt.child.build"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything up to the builder's call, in one folder: what `--emit` writes and what `build` goes on with."""

    flavour: Flavour
    lowered: ir.Model
    signature: Signature
    staged: Staged
    spec: Mapping[str, Any]
    parts: Sequence[Part]
    notes: Sequence[str]

    def proofs(self) -> list[Proof]:
        """Good until the folder is removed."""
        parser = self._parser()
        return [
            Proof("the lowered graph, on ONNX Runtime", lambda: ort_session(self.lowered, self.signature)),
            Proof(
                f"the network that {parser.name}'s parser made of it, evaluated on the CPU",
                lambda: NetworkSession(
                    self.staged.folder,
                    parser.name,
                    [tensor.name for tensor in self.signature.inputs],
                    [tensor.name for tensor in self.signature.outputs],
                ),
            ),
        ]

    def _parser(self) -> Flavour:
        """Whose parser shows what becomes of the graph; the other flavour's where this one is not installed."""
        here = [flavour for flavour in FLAVOURS.values() if installed_version(flavour.distribution) is not None]
        return next(iter(here), self.flavour) if self.flavour not in here else self.flavour


class TensorRtBuilder:
    """The compile side of one of the TensorRTs."""

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self.name = flavour.name
        self.archs = flavour.archs
        self.coverage_source = operators.SOURCE

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        return operators.supports(node, imports, self.name)

    def coverage(self) -> Sequence[Covered]:
        return operators.coverage(self.name)

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Raises UnsupportedOperatorError with every node that the target or an architecture lacks and its line,
        BuildError where the build itself fails, with the smallest piece that fails written beside it."""
        limits, search_seconds = Limits.from_environment(), reduce_seconds()
        self._check_here(options)
        prepared = self.prepare(model, options)
        folder = prepared.staged.folder
        options.progress(f"{self.name} builds for {', '.join(prepared.spec['archs'])}")
        outcome = run(CHILD, [str(folder)], output=folder / OUTPUT, limits=limits)
        result = read_result(folder)
        if outcome.code != 0 or outcome.stopped or result is None:
            raise self._failed(prepared, outcome, limits, options, search_seconds)
        found = product.notes(result, outcome.peak_bytes, folder)
        return Built(
            product.target(self.flavour, prepared.spec, result),
            [*product.parts(self.flavour, folder), *prepared.parts],
            {"nodes": model.graph.num_nodes(), **found, "notes": list(prepared.notes)},
            prepared.proofs(),
        )

    def prepare(self, model: ir.Model, options: BuildOptions) -> Prepared:
        """Needs neither TensorRT nor a GPU. Raises UnsupportedOperatorError like `build`."""
        archs = self._archs(options)
        lowered = lower(model)
        self._refuse(lowered, archs)
        made = plugin_parts(lowered, archs)
        sizes, notes = profile(options.signature, options.sizes)
        signature = options.signature
        try:
            staged = stage(lowered, options.folder / self.name)
            for part in made.parts:
                write_part(part, staged.folder)
        except OSError as error:
            raise atomic.cannot_write(home_of(options.folder), error) from error
        spec = staged.write_spec(
            flavour=self.name,
            archs=list(archs),
            profile=sizes,
            domains={each.name: [each.domain.low, each.domain.high] for each in signature.inputs if each.domain},
            declared={
                "inputs": _declared(signature.inputs),
                "outputs": _declared(signature.outputs),
                "unread": operators.unread_inputs(lowered),
            },
            plugins=made.entries,
            libraries=[],
        )
        return Prepared(self.flavour, lowered, signature, staged, spec, made.parts, notes)

    def _archs(self, options: BuildOptions) -> tuple[str, ...]:
        """What is asked of this target, or what this machine has; empty where another machine is to build."""
        asked = tuple(dict.fromkeys(arch for arch in options.archs if arch in self.archs))
        if asked or options.archs:
            if not asked:
                raise UsageError(f"no architecture is named that {self.name} builds for", fix=self._example())
            return asked
        here = next(iter(this_driver().gpus), None)
        if here is not None and here.arch in self.archs:
            return (here.arch,)
        if not self.flavour.builds_without_gpu:
            return ()
        found = f"this machine's GPU is {here.arch}" if here else "this machine has no GPU"
        raise UsageError(f"{found}: {self.name} has to be told what to build for", fix=self._example())

    def _example(self) -> str:
        return f"--arch with some of {', '.join(self.archs)}"

    def _refuse(self, lowered: ir.Model, archs: Sequence[str]) -> None:
        of_the_graph = operators.refusals(lowered)
        if of_the_graph:
            listed = "".join(f"\n  {text}" for text in of_the_graph)
            raise UnsupportedOperatorError(
                f"target {self.name} does not take the graph's inputs and outputs as they are:{listed}",
                fix="another dtype of what is named, or a copy of it (x.clone()) in the model's code",
            )
        missing = [*operators.unsupported(lowered, self.name), *lacking(lowered, self.flavour, archs)]
        if missing:
            listed = "".join(f"\n  {answer.reason}: {where(node)}" for node, answer in missing)
            count = len({id(node) for node, _ in missing})
            raise UnsupportedOperatorError(
                f"target {self.name} does not run {count} of the graph's nodes:{listed}",
                fix="another dtype or another operator in the model's code, on the lines named, or another --arch",
            )

    def _check_here(self, options: BuildOptions) -> None:
        """Raises BuildError where this machine cannot build the target, whatever the model."""
        flavour = self.flavour
        emit = "--emit DIR, and python DIR/finish.py where TensorRT and its GPU are"
        if installed_version(flavour.distribution) is None:
            fix = f"pip install 'ingot-compiler[{flavour.extra}]'"
            raise BuildError(
                f"{flavour.distribution} is not installed here, and building for {self.name} needs it",
                fix=fix if flavour.builds_without_gpu else f"{fix}, or {emit}",
            )
        if flavour.builds_without_gpu:
            return
        gpus = this_driver().gpus
        if not gpus:
            raise BuildError(f"{self.name} builds on the GPU that is to run the engine, and here is none", fix=emit)
        if options.archs and gpus[0].arch not in options.archs:
            have = f"{gpus[0].name} ({gpus[0].arch})"
            raise BuildError(f"{self.name} builds for this machine's GPU, which is {have}", fix=f"no --arch, or {emit}")

    def _failed(
        self, prepared: Prepared, outcome: Outcome, limits: Limits, options: BuildOptions, seconds: float
    ) -> BuildError:
        folder, places = prepared.staged.folder, prepared.staged.where
        error = failure(self.flavour, outcome, folder, places)
        if seconds == 0:
            return error
        # Only a build that fails pays for the import.
        from ingot.backends.tensorrt.reduce import reduced
        from ingot.backends.tensorrt.reproduce import SCRIPT

        options.progress("looking for the smallest piece that fails")
        try:
            found = reduced(folder, outcome, limits, name=options.name, seconds=seconds)
        except Exception:  # noqa: BLE001 what people must see is the failure itself
            return error
        return error if found is None else with_piece(error, found.folder / SCRIPT, found.nodes, places)


def _declared(tensors: Sequence[Tensor]) -> list[list[Any]]:
    return [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in tensors]


BUILDER = TensorRtBuilder(FLAVOURS["tensorrt"])
