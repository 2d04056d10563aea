"""Builds the `cpu` target: a graph for ONNX Runtime on a processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Covered, No, Yes
from ingot.backends.cpu.load import LOADER
from ingot.backends.onnxruntime.coverage import KERNEL, NO_END, end_of, qualified, refuse, schemas, unsupported
from ingot.backends.onnxruntime.lower import lower
from ingot.backends.onnxruntime.pack import WEIGHTS, pack
from ingot.file.header import Target

GRAPH = "cpu/graph.onnx"

OPTIMIZATION = "basic"
"""ONNX Runtime's own level: "extended" would fuse Add into SkipLayerNormalization, which was measured four times slower
than the two apart."""

_PROVIDER = "CPUExecutionProvider"


class CpuBuilder:
    """The compile side of the target `cpu`."""

    name = "cpu"
    archs = ()
    coverage_source = "the kernel registry of the installed ONNX Runtime, and ONNX's definitions for what has a body"

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """By the kernels that the installed ONNX Runtime lists, for the node's operator set and first input's dtype."""
        version = node.version or imports.get(node.domain, 1)
        rows = [
            row
            for row in _rows().get(qualified(node.domain, node.op_type), ())
            if row.low <= version and (row.high is None or version <= row.high)
        ]
        if not rows:
            return No(f"ONNX Runtime has no CPU kernel for {node.op_type} of operator set {version}")
        given = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        dtype = None if given is None else given.name.lower()
        for row in rows:
            if dtype is None or not row.dtypes or dtype in row.dtypes:
                return Yes(row.how)
        return No(f"ONNX Runtime's CPU kernel for {node.op_type} does not take {dtype}")

    def coverage(self) -> list[Covered]:
        return [row for name in sorted(_rows()) for row in _rows()[name]]

    def build(self, model: ir.Model, options: BuildOptions) -> Built:
        """Raises UnsupportedOperatorError, naming every node that ONNX Runtime has no kernel for and its line."""
        lowered = lower(model)
        refuse(self.name, unsupported(lowered, self.supports))
        target = Target(self.name, {"graph": GRAPH, "weights": WEIGHTS}, LOADER.needs, {"optimization": OPTIMIZATION})
        return Built(target, pack(lowered, GRAPH), {"nodes": model.graph.num_nodes()})


@cache
def _rows() -> dict[str, list[Covered]]:
    """The kernels that the installed ONNX Runtime lists, and ONNX's own definitions where it has none."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels: dict[tuple[str, int, int], set[str]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == _PROVIDER:
            key = (qualified(kernel.domain, kernel.op_name), *kernel.version_range)
            kinds = kernels.setdefault(key, set())
            kinds.update(kind for allowed in kernel.type_constraints.values() for kind in allowed)
    rows: dict[str, list[Covered]] = {}
    for (name, low, high), kinds in sorted(kernels.items()):
        dtypes = tuple(sorted(kind.removeprefix("tensor(").rstrip(")") for kind in kinds))
        last = end_of(low, name) if high == NO_END else high
        rows.setdefault(name, []).append(Covered(name, low, last, dtypes, KERNEL))
    for schema in schemas():
        name = qualified(schema.domain, schema.name)
        if name not in rows and (schema.has_function or schema.has_context_dependent_function):
            rows[name] = [Covered(name, schema.since_version, None, (), "defined by other ONNX operators")]
    return rows


BUILDER = CpuBuilder()
