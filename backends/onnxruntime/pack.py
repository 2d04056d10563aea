"""A graph as bytes, and the weights that lie beside it in the engine file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ingot.backends.onnxruntime.session import LOCATION
from ingot.errors import BuildError
from ingot.file.write import FIRST_MEMBER_OFFSET, Part
from ingot.ir.weights import chunks

WEIGHTS = "weights.bin"
"""The member of every target that ONNX Runtime runs: one model's graphs read the same weights at the same places."""

IR_VERSION = 13
"""The newest that ONNX Runtime 1.31 loads."""

INLINE_BYTES = 1024
"""Up to here a tensor stays in the graph: ONNX Runtime computes shapes with it when the session is made."""

ALIGNMENT = 64
"""Of a weight in the file: a cache line, and the widest vector."""


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


def pack(model: ir.Model, graph: str) -> list[Part]:
    """The parts WEIGHTS and `graph`, in the order of the file. Consumes `model`.

    The place of a weight follows from the order of the model's initializers alone: two lowerings of one model that keep
    those share the part WEIGHTS.
    """
    places: dict[int, tuple[int, ir.TensorProtocol]] = {}
    position = 0
    originals: list[tuple[ir.Value, ir.TensorProtocol]] = []
    model.ir_version = min(IR_VERSION, model.ir_version)
    strip(model)
    for part in model.graphs():
        for value in part.initializers.values():
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
    packed = _Packed(list(places.values()), position)
    return [Part(WEIGHTS, packed.size_bytes, packed.chunks), Part.of(graph, _serialized(model))]


def _serialized(model: ir.Model) -> bytes:
    proto = ir.to_proto(model)
    data: bytes = proto.SerializeToString(deterministic=True)
    if len(data) > 2**31 - 1:
        raise BuildError("the graph without its weights is larger than the 2 GB that protobuf can carry")
    return data


def strip(model: ir.Model) -> None:
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
