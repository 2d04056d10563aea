"""Ten architectures, lowered for TensorRT: the very graph on ONNX Runtime is PyTorch eager's, and RTX builds it."""

from __future__ import annotations

import os
import random
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest

from ingot.backends.contract import BuildOptions
from ingot.backends.tensorrt.lowering.lower import lower
from ingot.backends.tensorrt.proof import ort_session
from ingot.frontend.export import Exported, export
from ingot.frontend.source import Source
from ingot.models.engines import SMALL, Subject
from ingot.passes.contract import run_passes
from ingot.pipeline import passes
from ingot.verify.draw import cases, dim_sizes
from ingot.verify.reference import Reference, to_numpy
from ingot.verify.verify import verify

SEED = int(os.environ["INGOT_SEED"]) % 1000

# float16 of all that have matrix products, float32 of what is left, and one in bfloat16.
TESTED = [subject for subject in SMALL if subject.dtype != "float32" or not subject.product]
# One of them in float32 as well, another each run.
TESTED.append(random.Random(SEED).choice([subject for subject in SMALL if subject not in TESTED]))


def label(subject: Subject) -> str:
    return f"{subject.name} {subject.dtype}".replace(" ", "-").replace(",", "")


@cache
def exported(subject: Subject) -> tuple[Exported, Reference]:
    example = subject.build(SEED)
    source = Source("model", example.module, example.args, dict(example.kwargs), dynamic_shapes=example.dynamic_shapes)
    found = export(source)
    run_passes(found.model, passes())
    return found, Reference(source.module, found.signature, found.call, seed=SEED)


@cache
def lowered(subject: Subject) -> ir.Model:
    return lower(exported(subject)[0].model)


@pytest.mark.parametrize("subject", TESTED, ids=label)
def test_the_lowered_graph_on_onnx_runtime_is_eager(subject: Subject, seed: int) -> None:
    found, reference = exported(subject)
    session = ort_session(lowered(subject), found.signature)
    drawn = cases(found.signature, [to_numpy(tensor) for tensor in found.examples], seed=seed)
    accuracy = verify(session, reference, drawn, signature=found.signature)
    assert accuracy.worst.measure.holds
    assert len(drawn) > 2


def test_attention_becomes_tensorrts_own() -> None:
    for subject in TESTED:
        operators = [node.op_type for node in lowered(subject).graph.all_nodes()]
        assert "Attention" not in operators, subject.name
        attends = subject.name not in ("resnet", "int8 net", "skip norms")
        assert ("TRT_Attention" in operators) == attends, subject.name


@pytest.mark.parametrize("subject", TESTED, ids=label)
def test_rtx_builds_it(subject: Subject, tmp_path: Path) -> None:
    """For one architecture, another each run."""
    pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT for RTX")
    from ingot.backends.tensorrt_rtx.build import BUILDER

    found, _ = exported(subject)
    modern = [arch for arch in BUILDER.archs if arch not in ("sm_75", "sm_121")]
    oldest = subject.dtype == "float16" or not subject.product
    arch = random.Random(f"{SEED} {label(subject)}").choice([*modern, "sm_75"] if oldest else modern)
    sizes = dim_sizes(found.signature, [to_numpy(tensor) for tensor in found.examples])
    options = BuildOptions(threads=1, folder=tmp_path, signature=found.signature, sizes=sizes, archs=(arch,))
    built = BUILDER.build(found.model, options)
    sizes_bytes = {part.name: part.size_bytes for part in built.parts}
    assert sizes_bytes[built.target.members["plan"]] > 10_000, f"{arch}: {sizes_bytes}"
    assert built.target.needs["gpu"] == arch
