"""Builds the `cpu` target: a graph for ONNX Runtime whose weights lie beside it in the engine file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx_ir as ir

from ingot.backends.contract import BuildOptions, Built, Covered, No, Yes
from ingot.backends.cpu.expand_attention_mask import ExpandAttentionMask
from ingot.backends.cpu.load import LOADER, LOCATION
from ingot.errors import BuildError, UnsupportedOperatorError
from ingot.file.header import Target
from ingot.file.write import FIRST_MEMBER_OFFSET, Part
from ingot.ir.checks import subgraphs
from ingot.ir.provenance import where
from ingot.ir.weights import chunks
from ingot.passes.contract import run_passes

GRAPH, WEIGHTS = "cpu/graph.onnx", "weights.bin"

IR_VERSION = 13
"""The newest that ONNX Runtime 1.31 loads."""

INLINE_BYTES = 1024
"""Up to here a tensor stays in the graph: ONNX Runtime computes shapes with it when the session is made."""

ALIGNMENT = 64
"""Of a weight in the file: a cache line, and the widest vector."""

OPTIMIZATION = "basic"
"""ONNX Runtime's own level: "extended" would fuse Add into SkipLayerNormalization, which was measured four times slower
than the two apart."""

_PROVIDER = "CPUExecutionProvider"

KERNEL = "ONNX Runtime kernel"


class CpuBuilder:
    """The compile side of the target `cpu`."""

    name = "cpu"
    archs = ()

    def supports(self, node: ir.Node, imports: Mapping[str, int]) -> Yes | No:
        """By the kernels that the installed ONNX Runtime lists, for the node's operator set and first input's dtype."""
        version = node.version or imports.get(node.domain, 1)
        rows = [
            row
            for row in _rows().get(_qualified(node.domain, node.op_type), ())
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
        missing = unsupported(lowered, self)
        if missing:
            listed = "".join(f"\n  {answer.reason}: {where(node)}" for node, answer in missing)
            raise UnsupportedOperatorError(
                f"target cpu does not run {len(missing)} of the graph's nodes:{listed}",
                fix="another dtype or another operator in the model's code, on the lines named",
            )
        graph, packed = _pack(lowered)
        target = Target("cpu", {"graph": GRAPH, "weights": WEIGHTS}, LOADER.needs, {"optimization": OPTIMIZATION})
        parts = [
            Part(WEIGHTS, packed.size_bytes, packed.chunks),
            Part.of(GRAPH, graph),
        ]
        return Built(target, parts, {"nodes": model.graph.num_nodes()})


def lower(model: ir.Model) -> ir.Model:
    """A copy of the graph, weights shared, in the form that ONNX Runtime runs."""
    lowered = model.clone()
    run_passes(lowered, [ExpandAttentionMask()])
    return lowered


@dataclass(frozen=True, slots=True)
class _Packed:
    """Weights one behind the other, each at a multiple of ALIGNMENT."""

    tensors: Sequence[tuple[int, ir.TensorProtocol]]
    size_bytes: int

    def chunks(self) -> Iterator[bytes | memoryview]:
        position = 0
        for offset, tensor in self.tensors:
            if offset > position:
                yield bytes(offset - position)
            yield from chunks(tensor)
            position = offset + tensor.nbytes


def _pack(model: ir.Model) -> tuple[bytes, _Packed]:
    """The graph as bytes, its large tensors replaced by their place in the engine file, and those tensors. Consumes
    `model`."""
    places: dict[int, tuple[int, ir.TensorProtocol]] = {}
    position = 0
    originals: list[tuple[ir.Value, ir.TensorProtocol]] = []
    model.ir_version = min(IR_VERSION, model.ir_version)
    _strip(model)
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= INLINE_BYTES or tensor.dtype == ir.DataType.STRING:
                continue
            if id(tensor) not in places:
                position += -position % ALIGNMENT
                places[id(tensor)] = position, tensor
                position += tensor.nbytes
            originals.append((value, tensor))
    for value, tensor in originals:
        value.const_value = ir.ExternalTensor(
            LOCATION.decode(),
            FIRST_MEMBER_OFFSET + places[id(tensor)][0],
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )
    return _serialized(model), _Packed(list(places.values()), position)


def _serialized(model: ir.Model) -> bytes:
    proto = ir.to_proto(model)
    data: bytes = proto.SerializeToString(deterministic=True)
    if len(data) > 2**31 - 1:
        raise BuildError("the graph without its weights is larger than the 2 GB that protobuf can carry")
    return data


def _strip(model: ir.Model) -> None:
    """Drops what only people read: module paths, source lines, and shapes between nodes, which ONNX Runtime infers."""
    model.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string = "ingot", None, None
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def unsupported(model: ir.Model, builder: CpuBuilder) -> list[tuple[ir.Node, No]]:
    """The nodes of the graph and of the bodies inside it that the target does not run."""
    found: list[tuple[ir.Node, No]] = []

    def walk(graph: ir.Graph) -> None:
        for node in graph:
            if (node.domain, node.op_type, node.overload) not in model.functions:
                answer = builder.supports(node, model.opset_imports)
                if isinstance(answer, No):
                    found.append((node, answer))
            for inner in subgraphs(node):
                walk(inner)

    walk(model.graph)
    return found


@cache
def _rows() -> dict[str, list[Covered]]:
    """The kernels that the installed ONNX Runtime lists, and ONNX's own definitions where it has none."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    schemas: Any = onnx.defs.get_all_schemas_with_history()
    versions: dict[str, list[int]] = {}
    for schema in schemas:
        versions.setdefault(_qualified(schema.domain, schema.name), []).append(schema.since_version)
    kernels: dict[tuple[str, int, int], set[str]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == _PROVIDER:
            key = (_qualified(kernel.domain, kernel.op_name), *kernel.version_range)
            kinds = kernels.setdefault(key, set())
            kinds.update(kind for allowed in kernel.type_constraints.values() for kind in allowed)
    rows: dict[str, list[Covered]] = {}
    for (name, low, high), kinds in sorted(kernels.items()):
        dtypes = tuple(sorted(kind.removeprefix("tensor(").rstrip(")") for kind in kinds))
        last = _end(low, versions.get(name, ())) if high == _NO_END else high
        rows.setdefault(name, []).append(Covered(name, low, last, dtypes, KERNEL))
    for schema in schemas:
        name = _qualified(schema.domain, schema.name)
        if name not in rows and (schema.has_function or schema.has_context_dependent_function):
            rows[name] = [Covered(name, schema.since_version, None, (), "defined by other ONNX operators")]
    return rows


_NO_END = 2**31 - 1


def _end(low: int, versions: Sequence[int]) -> int | None:
    """Up to which operator set a kernel without an end is good: ONNX Runtime has none for a definition that is newer
    than the kernel's. None where the definition is still the newest."""
    later = [version for version in versions if version > low]
    return min(later) - 1 if later else None


def _qualified(domain: str, operator: str) -> str:
    return f"{domain}.{operator}" if domain else operator


BUILDER = CpuBuilder()
