"""Builds the `cpu` target: a graph for ONNX Runtime on a processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Covered, No, Yes
from ingot.backends.cpu.load import LOADER
from ingot.backends.onnxruntime.coverage import (
    KERNEL,
    NO_END,
    Kernel,
    end_of,
    not_taken,
    qualified,
    refuse,
    schemas,
    unsupported,
)
from ingot.backends.onnxruntime.lower import lower
from ingot.backends.onnxruntime.pack import WEIGHTS, pack
from ingot.file.header import Target

GRAPH = "cpu/graph.onnx"

OPTIMIZATION = "basic"
"""ONNX Runtime's own level: "extended" would fuse Add into SkipLayerNormalization, which was measured four times slower
than the two apart."""

DEFINED = "defined by other ONNX operators"

_PROVIDER = "CPUExecutionProvider"


class CpuBuilder:
    """The compile side of the target `cpu`."""

    name = "cpu"
    archs = ()
    coverage_source = "the kernel registry of the installed ONNX Runtime, and ONNX's definitions for what has a body"

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """By the kernels that the installed ONNX Runtime lists, for the node's operator set and all of its dtypes."""
        version = node.version or imports.get(node.domain, 1)
        name = qualified(node.domain, node.op_type)
        if name in _defined():
            return Yes(DEFINED)
        known = [
            kernel
            for kernel in _kernels().get(name, ())
            if kernel.low <= version and (kernel.high is None or version <= kernel.high)
        ]
        if not known:
            return No(f"ONNX Runtime has no CPU kernel for {node.op_type} of operator set {version}")
        if (dtypes := not_taken(known, node, version)) is not None:
            return No(f"ONNX Runtime's CPU kernel for {node.op_type} does not take {dtypes}")
        return Yes(KERNEL)

    def coverage(self) -> list[Covered]:
        rows = [Covered(name, since, None, (), DEFINED) for name, since in _defined().items()]
        for name, known in _kernels().items():
            kinds: dict[tuple[int, int | None], set[str]] = {}
            for kernel in known:
                kinds.setdefault((kernel.low, kernel.high), set()).update(*kernel.dtypes.values())
            rows += [Covered(name, *span, tuple(sorted(dtypes)), KERNEL) for span, dtypes in sorted(kinds.items())]
        return sorted(rows, key=lambda row: (row.operator, row.low))

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Raises UnsupportedOperatorError, naming every node that ONNX Runtime has no kernel for and its line."""
        lowered = lower(model)
        refuse(self.name, unsupported(lowered, self.supports))
        target = Target(self.name, {"graph": GRAPH, "weights": WEIGHTS}, LOADER.needs, {"optimization": OPTIMIZATION})
        return Built(target, pack(lowered, GRAPH), {"nodes": model.graph.num_nodes()})


@cache
def _kernels() -> dict[str, list[Kernel]]:
    """The kernels that the installed ONNX Runtime lists."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[str, list[Kernel]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == _PROVIDER:
            name, (low, high) = qualified(kernel.domain, kernel.op_name), kernel.version_range
            dtypes = {
                constraint: frozenset(kind[7:-1] if kind.startswith("tensor(") else kind for kind in kinds)
                for constraint, kinds in kernel.type_constraints.items()
            }
            found.setdefault(name, []).append(Kernel(low, end_of(low, name) if high == NO_END else high, dtypes))
    return found


@cache
def _defined() -> dict[str, int]:
    """The operators without a kernel that ONNX defines by others, and since when."""
    return {
        name: schema.since_version
        for schema in schemas()
        if (name := qualified(schema.domain, schema.name)) not in _kernels()
        and (schema.has_function or schema.has_context_dependent_function)
    }


BUILDER = CpuBuilder()
