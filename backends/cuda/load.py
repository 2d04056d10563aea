"""The production side of the target `cuda`: a graph in ONNX Runtime's CUDA provider; never run on a GPU.

What calls the GPU is written against the documented interfaces of ONNX Runtime and the driver, and tested with
stand-ins for both that move real bytes.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ingot.backends.needs import fitting_gpu, require, unmet
from ingot.errors import EngineError, FormatError
from ingot.file.header import Target
from ingot.machine import Machine, Unmet

if TYPE_CHECKING:
    from ingot.backends.cuda.session import CudaSession
    from ingot.file.read import EngineFile

PROVIDER = "CUDAExecutionProvider"

PROVIDER_OPTIONS: Mapping[str, str] = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
"""What is other than the provider's own choice.

cudnn_conv_algo_search  EXHAUSTIVE would try every algorithm at each new size of an input: slow where dims vary, and
                        another result from one run to the next
use_tf32                float32 stays float32: TF32 has 10 bits of mantissa
"""

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"

SHOWN_NODES = 5


class CudaLoader:
    """The production side of the target `cuda`."""

    name = "cuda"
    needs: Mapping[str, str] = {"onnxruntime-gpu": ">=1.31", "cuda": ">=13.0", "gpu": ""}
    """onnxruntime-gpu 1.31 is built for CUDA 13: its wheel asks for the libraries of that version."""
    build_needs: Mapping[str, str] = {"onnxruntime": ">=1.31"}
    """Either distribution: what is built is the graph, which is run on the processor to prove it."""

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        """From names of folders and the driver; ONNX Runtime is not imported."""
        return unmet(target, machine)

    def load(self, file: EngineFile, target: Target, *, threads: int) -> CudaSession:
        """`threads` are those of the nodes that stay on the processor.

        Raises RequirementError where this machine lacks something, EngineError where ONNX Runtime refuses the graph or
        would run on the processor what was built for the GPU.
        """
        require(target, file.path)
        # The path of `ingot check` pays for none of these.
        from ingot.backends.cuda.session import CudaSession
        from ingot.backends.onnxruntime.session import checked_options, errors_of, import_runtime, make_session
        from ingot.device.context import open_cuda

        onnxruntime = import_runtime(self.name, "onnxruntime-gpu", "cuda")
        chosen, said = checked_options(target), _said_on_processor(target)
        chosen = chosen._replace(config={**chosen.config, RECORD_PLACEMENT: "1"})
        problem = _preload(onnxruntime)
        cuda = open_cuda(fitting_gpu(target))
        stream = cuda.create_stream()
        try:
            options = {**PROVIDER_OPTIONS, "device_id": str(cuda.gpu.number), "user_compute_stream": str(stream)}
            session = make_session(onnxruntime, file, target, chosen, threads=threads, providers=[(PROVIDER, options)])
            check_placement(session, said, problem, file.path)
            return CudaSession(session, file.header.signature, errors_of(onnxruntime), cuda, stream, path=file.path)
        except BaseException:
            cuda.destroy_stream(stream)
            raise


def check_placement(session: Any, said: Mapping[str, int], problem: str, path: str) -> None:
    """Raises EngineError where a node stays on the processor that the header does not tell of.

    "session.disable_cpu_ep_fallback" of ONNX Runtime would turn down those that it tells of as well, and name none.
    """
    if PROVIDER not in session.get_providers():
        raise EngineError(
            "ONNX Runtime could not start its CUDA provider" + (f": {problem}" if problem else ""),
            where=path,
            fix="pip install 'onnxruntime-gpu[cuda,cudnn]', which brings the libraries of CUDA 13 and cuDNN 9",
        )
    left = [
        node
        for graph in session.get_provider_graph_assignment_info()
        if graph.ep_name != PROVIDER
        for node in graph.get_nodes()
    ]
    counts = Counter(node.op_type for node in left)
    wrong = [node for node in left if counts[node.op_type] > said.get(node.op_type, 0)]
    if wrong:
        shown = ", ".join(f"{node.op_type} {node.name}".strip() for node in wrong[:SHOWN_NODES])
        more = f" and {len(wrong) - SHOWN_NODES} more" if len(wrong) > SHOWN_NODES else ""
        raise EngineError(
            f"ONNX Runtime would run on the processor what was built for the GPU: {shown}{more}",
            where=path,
            fix="compile the engine again beside this onnxruntime-gpu, or ingot.load(path, target='cpu')",
        )


def _said_on_processor(target: Target) -> dict[str, int]:
    """How many nodes of each operator the header says to stay on the processor. Raises FormatError."""
    said = target.options.get("on_processor", {})
    if not isinstance(said, dict) or not all(isinstance(count, int) for count in said.values()):
        raise FormatError(f"the header's on_processor is {said!r:.80}, and must be an object of counts")
    return said


@cache
def _preload(onnxruntime: Any) -> str:
    """Loads the CUDA libraries that pip has installed, once a process; what ONNX Runtime prints of it where some are
    missing."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    return " ".join(printed.getvalue().split())[:400]


LOADER = CudaLoader()
