"""The whole compile on one screen: trace, rewrite, build, write, verify; and the ordered list of passes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Session
from ingot.backends.onnxruntime.pack import WEIGHTS
from ingot.backends.targets import builder, check_targets
from ingot.errors import UsageError
from ingot.file.header import Header, Text
from ingot.file.read import EngineFile
from ingot.file.write import Draft, Part
from ingot.frontend.export import Exported, export
from ingot.frontend.source import Source, TextSource
from ingot.frontend.structure import evaluating
from ingot.ir.dump import readable
from ingot.machine import cpu_model, this_machine
from ingot.passes.contract import Pass, PassReport, run_passes
from ingot.passes.drop_identity import DropIdentity
from ingot.passes.drop_open_mask import DropOpenMask
from ingot.passes.drop_unused import DropUnused
from ingot.passes.fold_constants import FoldConstants
from ingot.passes.fold_reshape_targets import FoldReshapeTargets
from ingot.passes.fold_static_shapes import FoldStaticShapes
from ingot.passes.fold_weight_transpose import FoldWeightTranspose
from ingot.passes.fuse_reshapes import FuseReshapes
from ingot.passes.fuse_transposes import FuseTransposes
from ingot.passes.infer_shapes import InferShapes
from ingot.passes.inline_functions import InlineFunctions
from ingot.passes.merge_common_subexpressions import MergeCommonSubexpressions
from ingot.passes.merge_initializers import MergeInitializers
from ingot.passes.replace_attention_layout import ReplaceAttentionLayout
from ingot.passes.replace_cache_scatter import ReplaceCacheScatter
from ingot.passes.replace_cast_like import ReplaceCastLike
from ingot.passes.replace_split_to_sequence import ReplaceSplitToSequence
from ingot.progress import Progress, Steps
from ingot.verify.draw import Case, cases, dim_sizes
from ingot.verify.locate import Located, locate
from ingot.verify.reference import Reference, nan_weights, to_numpy
from ingot.verify.selftest import selftest_part
from ingot.verify.targets import Holding, hold_targets
from ingot.verify.verify import Accuracy, verify
from ingot.version import __version__

Verify = Literal["full", "quick", "off"]

VERIFY_MODES: tuple[Verify, ...] = ("full", "quick", "off")


def passes() -> list[Pass]:
    """The ordered list. All are exact."""
    return [
        # canonical
        InlineFunctions(),
        FoldConstants(),  # first: most values of unknown shape are constants or computed from them
        InferShapes(),  # what follows decides by shapes
        ReplaceCastLike(),
        FoldStaticShapes(),
        FoldWeightTranspose(),
        FoldConstants(),  # after both: sizes, targets and weights that have become constants
        InferShapes(),  # a target that has become a constant gives a shape; the rest is known, so this is quick
        FoldStaticShapes(),
        ReplaceSplitToSequence(),
        FoldReshapeTargets(),  # after folding: targets that are constants need no change
        DropIdentity(),
        FuseTransposes(),
        FuseReshapes(),
        FuseTransposes(),  # again, for Reshapes between them are gone
        MergeInitializers(),  # before subexpressions: two equal constants make two equal nodes
        MergeCommonSubexpressions(),
        DropUnused(),
        # attention
        ReplaceCacheScatter(),  # after FuseTransposes: the cache is moved back and forth by one Transpose each
        DropOpenMask(),
        ReplaceAttentionLayout(),
        DropUnused(),
    ]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What the user said.

    `archs` are GPU architectures ("sm_89"); `translations` maps torch operators to functions over onnxscript's opset.
    """

    targets: tuple[str, ...] = ("cpu",)
    archs: tuple[str, ...] = ()
    verify: Verify = "full"
    threads: int = 1
    dynamic_shapes: Any = None
    translations: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_targets(self.targets, self.archs)
        if self.verify not in VERIFY_MODES:
            raise UsageError(f"verify is {self.verify!r}", fix=f"one of: {', '.join(VERIFY_MODES)}")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise UsageError(f"threads is {self.threads!r}, which is no count of threads", fix="threads=1, or more")
        if not isinstance(self.translations, Mapping):
            raise UsageError(
                f"translations is a {type(self.translations).__name__}",
                fix="a dict: {torch.ops.NAMESPACE.NAME.default: function over onnxscript's opset}",
            )


@dataclass(frozen=True, slots=True)
class Traced:
    """A model as every target begins with it: its graph after the passes, and what eager gives on drawn inputs."""

    source: Source
    options: CompileOptions
    steps: Steps
    exported: Exported
    reports: Sequence[PassReport]
    reference: Reference
    cases: Sequence[Case]
    selftest: Part | None
    seed: int

    def measure(self, session: Session, tell: Callable[[str], None]) -> Accuracy:
        """Holds a session to eager, and says where the error begins. Raises VerificationError."""
        return verify(
            session,
            self.reference,
            self.cases,
            signature=self.exported.signature,
            seed=self.seed,
            locate=self._locate,
            progress=tell,
        )

    def _locate(self, case: Case, expected: Sequence[Any]) -> Located | None:
        self.steps.progress.detail("looking for the first node that is wrong")
        return locate(self.exported, self.exported.model, case, expected)


def compile_source(source: Source, options: CompileOptions, *, folder: Path, progress: Progress) -> Draft:
    """A finished engine file in `folder` that still has its temporary name: publish or discard it.

    Raises CompileError where the model cannot become an engine, or the engine does not compute what the model does.
    """
    with evaluating(source.module), tempfile.TemporaryDirectory(prefix=".ingot-build-", dir=folder) as scratch:
        traced = trace(source, options, progress)
        with traced.steps.step("build"):
            built = [builder(name).build(*to_build(traced, name, Path(scratch))) for name in options.targets]
        with traced.steps.step("write"):
            draft = Draft(folder, source.name, header_of(traced, built), parts_of(traced, built))
        try:
            with traced.steps.step("verify"):
                holding = hold(draft, built, traced)
            draft.finish(_record(traced, built, holding))
        except BaseException:
            draft.discard()
            raise
    return draft


def trace(source: Source, options: CompileOptions, progress: Progress) -> Traced:
    """Everything that comes before a target: trace, passes, reference. Raises CompileError."""
    steps = Steps(progress)
    with steps.step("trace"):
        exported = export(source, dynamic_shapes=options.dynamic_shapes, translations=options.translations)
    with steps.step("rewrite"):
        reports = run_passes(exported.model, passes())
    with steps.step("reference"):
        seed = _seed(exported)
        reference = Reference(source.module, exported.signature, exported.call, seed=seed)
        drawn = _cases(exported, options, seed)
        reference.check_repeats(drawn[0])
        selftest = selftest_part(exported.signature, reference, drawn)
    return Traced(source, options, steps, exported, reports, reference, drawn, selftest, seed)


def _seed(exported: Exported) -> int:
    """INGOT_SEED, or one that follows from the graph: the same model is always verified on the same inputs."""
    asked = os.environ.get("INGOT_SEED")
    if asked is None:
        return int.from_bytes(hashlib.sha256(readable(exported.model).encode()).digest()[:4], "little") // 2
    if not asked.isdecimal() or int(asked) >= 2**63:
        raise UsageError(f"INGOT_SEED is {asked!r}, not a whole number below 2**63", fix="INGOT_SEED=0")
    return int(asked)


def _cases(exported: Exported, options: CompileOptions, seed: int) -> list[Case]:
    examples = [to_numpy(tensor) for tensor in exported.examples]
    mode: Literal["full", "quick"] = "full" if options.verify == "full" else "quick"
    return cases(exported.signature, examples, seed=seed, mode=mode)


def to_build(traced: Traced, target: str, scratch: Path) -> tuple[ir.Model, BuildOptions]:
    """What a target's build is given; it has a folder of its own in `scratch`."""
    home = scratch / target
    home.mkdir()
    exported, known = traced.exported, builder(target).archs
    return exported.model, BuildOptions(
        threads=traced.options.threads,
        name=traced.source.name,
        folder=home,
        signature=exported.signature,
        sizes=dim_sizes(exported.signature, [to_numpy(tensor) for tensor in exported.examples]),
        archs=tuple(arch for arch in traced.options.archs if arch in known),
        progress=lambda detail: traced.steps.progress.detail(f"{target}: {detail}"),
    )


def hold(draft: Draft, built: Sequence[Built], traced: Traced) -> Holding:
    """Each target, from the very file that is to be published."""
    if traced.options.verify == "off":
        return Holding()
    with EngineFile.open(draft.path) as file:
        return hold_targets(
            file, built, traced.measure, threads=traced.options.threads, progress=traced.steps.progress.detail
        )


def header_of(traced: Traced, built: Sequence[Built]) -> Header:
    text = traced.source.text
    return Header(
        name=traced.source.name,
        signature=traced.exported.signature,
        targets=tuple(each.target for each in built),
        verification=traced.options.verify,
        numerics="fast",
        versions=_versions(),
        text=None if text is None else _text(text),
        selftest=None if traced.selftest is None else traced.selftest.name,
    )


def _text(text: TextSource) -> Text:
    return Text(TOKENIZER, text.inputs, text.max_tokens, text.pad_id, text.output, text.prompts, text.default_prompt)


TOKENIZER = "tokenizer.json"


def parts_of(traced: Traced, built: Sequence[Built]) -> list[Part]:
    """Members in the order of the file: weights first, for graphs name them by their place; one member for a name."""
    named = {part.name: part for each in built for part in each.parts}
    parts = [named[name] for name in sorted(named, key=lambda name: name != WEIGHTS)]
    if traced.source.text is not None:
        parts.append(Part.of(TOKENIZER, traced.source.text.tokenizer_json))
    if traced.selftest is not None:
        parts.append(traced.selftest)
    return parts


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"ingot": __version__, **{name: version(name).partition("+")[0] for name in ("torch", "onnx-ir")}}


def _record(traced: Traced, built: Sequence[Built], holding: Holding) -> dict[str, Any]:
    source = traced.source
    tensors = list(source.module.parameters())
    nan = nan_weights(source.module)
    warnings = [*source.warnings]
    if nan:
        warnings.append(f"weights that hold NaN: {', '.join(nan[:5])}{' and more' if len(nan) > 5 else ''}")
    machine = this_machine()
    return {
        "model": {
            "name": source.name,
            "parameters": sum(tensor.numel() for tensor in tensors),
            "weights_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        },
        "accuracy": holding.held[0].accuracy.to_json() if holding.held else None,
        "held": [item.to_json() for item in holding.held],
        "unproven": list(holding.unproven),
        "builds": {each.target.name: dict(each.notes) for each in built},
        "passes": [asdict(report) for report in traced.reports],
        "steps": traced.steps.taken,
        "seed": traced.seed,
        "notes": list(traced.exported.notes),
        "warnings": warnings,
        "machine": {"cpu": cpu_model(), "arch": machine.arch, "features": sorted(machine.features)},
    }
