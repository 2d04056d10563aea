"""Cuts a graph that fails to build down to the smallest piece that fails alike.

polygraphy's own `debug reduce` is no way here: where a graph branches it runs the whole model on ONNX Runtime to freeze
the other branch, and that refuses the very node that fails and the nodes of domain `trt`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_graphsurgeon as gs

from ingot.backends.tensorrt import log, reproduce
from ingot.backends.tensorrt.child.parse import GRAPH, OUTPUT, SPEC, WEIGHTS, read_spec
from ingot.backends.tensorrt.child.process import Limits, Outcome, run
from ingot.backends.tensorrt.failure import read_result

CHILD = "ingot.backends.tensorrt.child.build"

_KINDS = ("parse", "build", "memory")
_OF_ONE_GRAPH = re.compile(r"\{[^}]*\}?|\[[^\]]*\]?|'[^']*'|\"[^\"]*\"|\S*\d\S*|\S*_\S*")
"""What a message says of names and sizes: another piece has others."""


class Symptom(NamedTuple):
    """How a build failed: what a piece must show too."""

    stopped: str | None
    how: int | str
    messages: frozenset[str] = frozenset()

    def like(self, other: Symptom) -> bool:
        """One of the messages is enough: a piece may not come to the rest."""
        alike = self.messages & other.messages or self.messages == other.messages
        return self[:2] == other[:2] and bool(alike)


@dataclass(frozen=True, slots=True)
class Reduced:
    """Where the piece was written, and the names of its nodes."""

    folder: Path
    nodes: tuple[str, ...]


def reduced(folder: Path, outcome: Outcome, limits: Limits, *, name: str, seconds: float) -> Reduced | None:
    """The piece, in ./ingot-failed-NAME; None where the failure does not come back within `seconds`."""
    symptom = _symptom(folder, outcome)
    # A build that takes half of the time before it fails leaves none to look for the piece.
    if symptom is None or outcome.seconds > seconds / 2:
        return None
    until = time.monotonic() + seconds
    search = _Search(folder, symptom, Limits(min(limits.seconds, 2 + 3 * outcome.seconds), limits.memory_bytes), until)
    piece = search.smallest(_named(folder))
    home = None if piece is None else reproduce.write(piece, folder, name)
    return None if piece is None or home is None else Reduced(home, tuple(node.name for node in piece.graph.node))


def _symptom(folder: Path, outcome: Outcome) -> Symptom | None:
    """None where the graph is not what failed."""
    if outcome.stopped:
        return Symptom(outcome.stopped, 0)
    result = read_result(folder)
    if result is not None and "error" in result:
        kind, items = result["error"]["kind"], result["error"]["items"]
        if kind not in _KINDS:
            return None
        said = [log.readable(item["message"]) for item in items if kind != "memory"]
        return Symptom(None, kind, frozenset(" ".join(_OF_ONE_GRAPH.sub("", text).split()) for text in said))
    return Symptom(None, outcome.code) if outcome.code < 0 else None


def _named(folder: Path) -> list[str]:
    """The nodes that the parser itself named."""
    result = read_result(folder) or {}
    return [item["node"] for item in result.get("error", {}).get("items", []) if item.get("node")]


@dataclass(slots=True)
class _Search:
    """Candidates are built by children of their own, each in a folder that is removed with the build's."""

    folder: Path
    symptom: Symptom
    limits: Limits
    until: float
    tried: int = 0
    best: onnx.ModelProto | None = None
    spec: Mapping[str, Any] = field(init=False)
    graph: Any = field(init=False)

    def __post_init__(self) -> None:
        self.spec = read_spec(self.folder)
        self.graph = gs.import_onnx(_typed(onnx.load(str(self.folder / GRAPH), load_external_data=False)))
        self.graph.toposort()

    def smallest(self, hints: Collection[str]) -> onnx.ModelProto | None:
        nodes = list(self.graph.nodes)
        if self.symptom.stopped and self._shown(_negation()):
            return None  # limits that nothing can be built within
        for index in [index for index, node in enumerate(nodes) if node.name in hints][:3]:
            if self._grow(index):
                return self.best
        if not self._fails(range(len(nodes))):
            return None
        low, high = 0, len(nodes) - 1
        while low < high and time.monotonic() < self.until:
            middle = (low + high) // 2
            if self._fails(range(middle + 1)):
                high = middle
            else:
                low = middle + 1
        self._grow(high)
        return self.best

    def _grow(self, last: int) -> bool:
        """Tries the node alone, then with what it reads from, further and further back; then without each of these."""
        nodes = list(self.graph.nodes)
        index_of = {id(node): index for index, node in enumerate(nodes)}
        chosen = {last}
        while not self._fails(chosen):
            back = {index_of[id(node)] for index in chosen for node in _producers(nodes[index])} - chosen
            if not back or len(chosen) > len(nodes) // 2 or time.monotonic() > self.until:
                return False
            chosen |= back
        for index in sorted(chosen - {last}):
            if self._fails(chosen - {index}):
                chosen.remove(index)
        return True

    def _fails(self, indices: Collection[int]) -> bool:
        """Whether these nodes alone show the symptom; what does is kept as the best, for each is smaller."""
        if time.monotonic() > self.until:
            return False
        piece = _cut(self.graph, set(indices))
        if piece is None or not self._shown(piece):
            return False
        self.best = piece
        return True

    def _shown(self, piece: onnx.ModelProto) -> bool:
        self.tried += 1
        folder = self.folder / "reduce" / str(self.tried)
        self._stage(piece, folder)
        limits = Limits(max(1.0, min(self.limits.seconds, self.until - time.monotonic())), self.limits.memory_bytes)
        outcome = run(CHILD, [str(folder)], output=folder / OUTPUT, limits=limits)
        symptom = _symptom(folder, outcome)
        return symptom is not None and symptom.like(self.symptom)

    def _stage(self, piece: onnx.ModelProto, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / GRAPH).write_bytes(piece.SerializeToString())
        held = {tensor.name for tensor in piece.graph.initializer}
        spec = {
            **self.spec,
            "initializers": [entry for entry in self.spec["initializers"] if entry[0] in held],
            "profile": reproduce.profile(piece, reproduce.axes(self.spec)),
            # The audit is of whole graphs: a piece has inputs and outputs that nobody declared.
            "declared": None,
            "weights": str(self.folder / WEIGHTS),
        }
        (folder / SPEC).write_text(json.dumps(spec), encoding="utf-8")


def _negation() -> onnx.ModelProto:
    """A graph that builds wherever anything does."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "negation", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the types of values that the graph does not tell, as far as ONNX infers them: cuts need them."""
    with suppress(onnx.shape_inference.InferenceError):
        return onnx.shape_inference.infer_shapes(model)
    return model


def _producers(node: Any) -> Iterator[Any]:
    for tensor in _reads(node):
        yield from tensor.inputs


def _reads(node: Any) -> Iterator[Any]:
    """What a node and the bodies inside it read from outside."""
    yield from node.inputs
    for inner in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
        made = {id(tensor) for each in inner.nodes for tensor in each.outputs} | {id(each) for each in inner.inputs}
        for each in inner.nodes:
            yield from (tensor for tensor in _reads(each) if id(tensor) not in made)


def _cut(graph: Any, indices: set[int]) -> onnx.ModelProto | None:
    """The chosen nodes as a graph of their own; None where the type of a value at the cut is not known."""
    piece = graph.copy()
    chosen = [node for index, node in enumerate(piece.nodes) if index in indices]
    made = {tensor.name for node in chosen for tensor in node.outputs}
    read = {tensor.name: tensor for node in chosen for tensor in _reads(node)}
    inputs = [
        tensor
        for name, tensor in read.items()
        if name and name not in made and not isinstance(tensor, gs.Constant) and not _is_constant(tensor)
    ]
    whole = {tensor.name for tensor in piece.outputs}
    outputs = [
        tensor
        for node in chosen
        for tensor in node.outputs
        if tensor.name and (tensor.name in whole or tensor.name not in read)
    ]
    if not outputs or any(tensor.dtype is None or tensor.shape is None for tensor in inputs):
        return None
    for tensor in inputs:
        tensor.inputs.clear()
    piece.nodes, piece.inputs, piece.outputs = chosen, inputs, outputs
    cut: onnx.ModelProto = gs.export_onnx(piece.cleanup(), do_type_check=False)
    return cut


def _is_constant(tensor: Any) -> bool:
    return len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant"
