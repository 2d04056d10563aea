"""Writes a lowered graph for the parser: the graph without large weights, these beside it, and the child's spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ingot.backends.onnxruntime.pack import strip
from ingot.backends.tensorrt.child.parse import GRAPH, SPEC, WEIGHTS
from ingot.backends.tensorrt.plugin.parts import name_for_parser
from ingot.errors import BuildError
from ingot.file.write import Part
from ingot.ir.checks import subgraphs
from ingot.ir.provenance import where
from ingot.ir.weights import chunks

INLINE_BYTES = 1024
"""Up to here a tensor stays in the graph, where the parser reads sizes and axes from it."""

ALIGNMENT = 64

LARGEST_GRAPH_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Staged:
    """A graph on the disk. `where` maps the name of a node to its place in the user's code; `initializers` are
    (name, offset in weights.bin, bytes)."""

    folder: Path
    where: Mapping[str, str]
    initializers: list[tuple[str, int, int]]

    def write_spec(self, **more: Any) -> dict[str, Any]:
        spec = {"initializers": self.initializers, "where": self.where, **more}
        (self.folder / SPEC).write_text(json.dumps(spec, indent=1), encoding="utf-8")
        return spec


def stage(lowered: ir.Model, folder: Path) -> Staged:
    """Writes the graph and its weights into `folder`; `lowered` stays as it is.

    The graph is a plain ONNX file with external data, so that other tools read it. Functions are left out: the parser
    has layers or plugins for what calls them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = lowered.clone()
    places = _name_nodes(model)
    name_for_parser(model)
    model.functions.clear()
    strip(model)
    initializers = _write_weights(model, folder / WEIGHTS)
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    if len(data) > LARGEST_GRAPH_BYTES:
        raise BuildError("the graph without its weights is larger than the 2 GB that protobuf can carry")
    (folder / GRAPH).write_bytes(data)
    return Staged(folder, places, initializers)


def write_part(part: Part, folder: Path) -> None:
    """Writes a member that is to be as a file below `folder`."""
    path = folder / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.writelines(part.chunks())


def _name_nodes(model: ir.Model) -> dict[str, str]:
    """Gives every node a name of its own, by which parser and builder speak of it; gives the names and their places."""
    places: dict[str, str] = {}

    def walk(graph: ir.Graph) -> None:
        for node in graph:
            name = node.name or f"{node.op_type}_{len(places)}"
            while name in places:
                name = f"{node.op_type}_{len(places)}" if name == node.name else f"{name}_"
            node.name = name
            places[name] = where(node)
            for inner in subgraphs(node):
                walk(inner)

    walk(model.graph)
    return places


def _write_weights(model: ir.Model, path: Path) -> list[tuple[str, int, int]]:
    """Large tensors of the outer graph go to `path`, one that several names share once. Bodies keep theirs inside:
    the parser takes weights by name from the outer graph alone."""
    places: dict[int, int] = {}
    found = []
    position = 0
    with path.open("wb") as stream:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= INLINE_BYTES or tensor.dtype == ir.DataType.STRING:
                continue
            if id(tensor) not in places:
                padding = -position % ALIGNMENT
                stream.write(bytes(padding))
                places[id(tensor)] = position = position + padding
                for chunk in chunks(tensor):
                    stream.write(chunk)
                position += tensor.nbytes
            name, offset, size_bytes = value.name or "", places[id(tensor)], tensor.nbytes
            found.append((name, offset, size_bytes))
            sizes = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor(WEIGHTS, offset, size_bytes, tensor.dtype, shape=sizes, name=name)
    return found
