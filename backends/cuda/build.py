"""Builds the `cuda` target: a graph for ONNX Runtime's CUDA provider, with the place of every node known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Covered, No, Proof, Session, UnprovenError, Yes
from ingot.backends.cpu.build import BUILDER as CPU
from ingot.backends.cuda.expand_functions import ExpandFunctions
from ingot.backends.cuda.kernels import coverage, kernel_for
from ingot.backends.cuda.load import LOADER
from ingot.backends.cuda.lower_operator_set import LowerOperatorSet
from ingot.backends.cuda.lower_reciprocal import LowerReciprocal
from ingot.backends.cuda.placement import place
from ingot.backends.onnxruntime.coverage import refuse, unsupported
from ingot.backends.onnxruntime.lower import lower
from ingot.backends.onnxruntime.pack import WEIGHTS, pack
from ingot.backends.onnxruntime.session import Options, OrtSession, errors_of, import_runtime, open_graph
from ingot.errors import EngineError
from ingot.file.header import Target
from ingot.file.write import FIRST_MEMBER_OFFSET, Part
from ingot.ir.provenance import where
from ingot.passes.contract import Pass, run_passes
from ingot.passes.infer_shapes import InferShapes

GRAPH = "cuda/graph.onnx"

OPTIMIZATION = "basic"
"""ONNX Runtime's own level: "extended" and "all" would put in fusions of its own (SkipLayerNormalization, BiasGelu), of
which nothing was measured on a GPU."""

PROVED = "the same graph, on ONNX Runtime's CPU provider"


class CudaBuilder:
    """The compile side of the target `cuda`."""

    name = "cuda"
    archs = ()
    coverage_source = (
        "the kernel registry of onnxruntime-gpu 1.31.1 for CUDA 13.0, which ONNX Runtime's docs/OperatorKernels.md is "
        "made from, and ONNX's definitions; no kernel was run on a GPU"
    )

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """By the CUDA kernels of ONNX Runtime 1.31, for the node's operator set and all of its dtypes."""
        return kernel_for(node, node.version or imports.get(node.domain, 1))

    def coverage(self) -> list[Covered]:
        return coverage()

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Raises UnsupportedOperatorError, naming every node that has no CUDA kernel and its line, but for arithmetic
        on shapes: that stays on the processor, and the header says how many nodes of which operators."""
        lowered = lower(model)
        # The older set first: it keeps whole what a definition would take apart; then for what definitions are made of.
        definitions: list[Pass] = [LowerOperatorSet(), ExpandFunctions(), InferShapes(), LowerReciprocal()]
        run_passes(lowered, [*definitions, LowerOperatorSet(), InferShapes()])
        placed = place(lowered)
        refuse(self.name, placed.nowhere)
        on_processor = placed.on_processor()
        lacking = [f"{answer.reason}: {where(node)}" for node, answer in unsupported(lowered, CPU.supports)]
        weights, graph = pack(lowered, GRAPH)
        settings = {"optimization": OPTIMIZATION, "on_processor": on_processor, "proven": False}
        target = Target(self.name, {"graph": GRAPH, "weights": WEIGHTS}, LOADER.needs, settings)
        notes = {"nodes": model.graph.num_nodes(), "on the GPU": len(placed.gpu), "on the processor": on_processor}
        opened = partial(_on_processor, graph, weights, lacking, options)
        return Built(target, [weights, graph], notes, [Proof(PROVED, opened)])


def _on_processor(graph: Part, weights: Part, lacking: Sequence[str], options: BuildOptions) -> Session:
    """The graph on the processor; the weights lie in a file of their own, at the places that they have in the engine's.

    Raises UnprovenError where ONNX Runtime has no way to run it there; `lacking` are the nodes without a CPU kernel,
    which it makes up for where they are in float16.
    """
    path = options.folder.resolve() / "proof.bin"
    if not path.exists():
        with path.open("xb") as stream:
            stream.seek(FIRST_MEMBER_OFFSET)
            stream.writelines(weights.chunks())
    onnxruntime = import_runtime("cuda", "onnxruntime", "cpu")
    data = b"".join(graph.chunks())
    try:
        session = open_graph(
            onnxruntime,
            data,
            str(path),
            Options(OPTIMIZATION, {}, []),
            threads=options.threads,
            providers=["CPUExecutionProvider"],
            where=GRAPH,
        )
    except EngineError as error:
        raise UnprovenError(
            f"the graph for the GPU does not run on the processor: {lacking[0] if lacking else error.what}",
            fix="compile on a machine with the GPU, where the engine itself is run",
        ) from error
    errors, forks = errors_of(onnxruntime), options.threads == 1
    return OrtSession(session, options.signature, errors, path=GRAPH, forks=forks)


BUILDER = CudaBuilder()
