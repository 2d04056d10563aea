"""Cuts a graph that fails to build down to the smallest piece that fails alike, and writes it with a script."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from ingot.backends.tensorrt.child.parse import GRAPH, LOG, OUTPUT, SPEC, WEIGHTS, read_spec
from ingot.backends.tensorrt.child.process import Limits, Outcome, run
from ingot.backends.tensorrt.failure import read_result
from ingot.backends.tensorrt.flavours import FLAVOURS

LARGEST_BYTES = 1 << 30
"""A piece with more weights than this is not worth writing."""

UNKNOWN_AXIS = {"min": 1, "opt": 8, "max": 32}

SCRIPT = "reproduce.py"

_KINDS = ("parse", "build", "memory")

Symptom = tuple[str | None, int | str]


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
    home = None if piece is None else _write(piece, folder, name)
    return None if piece is None or home is None else Reduced(home, tuple(node.name for node in piece.graph.node))


def _symptom(folder: Path, outcome: Outcome) -> Symptom | None:
    """What a piece must show too; None where the graph is not what failed."""
    if outcome.stopped:
        return (outcome.stopped, 0)
    result = read_result(folder)
    if result is not None and "error" in result:
        kind = result["error"]["kind"]
        return (None, kind) if kind in _KINDS else None
    return (None, outcome.code) if outcome.code != 0 else None


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
    axes: dict[str, dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.spec = read_spec(self.folder)
        self.graph = gs.import_onnx(_typed(onnx.load(str(self.folder / GRAPH), load_external_data=False)))
        self.graph.toposort()
        self.axes = dict(_axes(self.spec))

    def smallest(self, hints: Sequence[str]) -> onnx.ModelProto | None:
        nodes = list(self.graph.nodes)
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
        """Tries the node alone, then with what it reads from, further and further back."""
        nodes = list(self.graph.nodes)
        index_of = {id(node): index for index, node in enumerate(nodes)}
        chosen = {last}
        while time.monotonic() < self.until:
            if self._fails(sorted(chosen)):
                return True
            back = {index_of[id(node)] for index in chosen for node in _producers(nodes[index])} - chosen
            if not back or len(chosen) > len(nodes) // 2:
                return False
            chosen |= back
        return False

    def _fails(self, indices: Sequence[int]) -> bool:
        """Whether these nodes alone show the symptom; what does is kept as the best, for each is smaller."""
        if time.monotonic() > self.until:
            return False
        piece = _cut(self.graph, set(indices))
        if piece is None:
            return False
        self.tried += 1
        folder = self.folder / "reduce" / str(self.tried)
        self._stage(piece, folder)
        limits = Limits(max(1.0, min(self.limits.seconds, self.until - time.monotonic())), self.limits.memory_bytes)
        outcome = run("ingot.backends.tensorrt.child.build", [str(folder)], output=folder / OUTPUT, limits=limits)
        if _symptom(folder, outcome) != self.symptom:
            return False
        self.best = piece
        return True

    def _stage(self, piece: onnx.ModelProto, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / GRAPH).write_bytes(piece.SerializeToString())
        held = {tensor.name for tensor in piece.graph.initializer}
        sizes = {value.name: _shape(value) for value in piece.graph.input}
        profile = {
            name: {
                end: [axis if isinstance(axis, int) else self._axis(axis)[end] for axis in shape]
                for end in UNKNOWN_AXIS
            }
            for name, shape in sizes.items()
            if any(not isinstance(axis, int) for axis in shape)
        }
        initializers = [entry for entry in self.spec["initializers"] if entry[0] in held]
        # The audit is of whole graphs: a piece has inputs and outputs that nobody declared.
        spec = {**self.spec, "initializers": initializers, "profile": profile, "declared": None}
        spec["weights"] = str(self.folder / WEIGHTS)
        (folder / SPEC).write_text(json.dumps(spec), encoding="utf-8")

    def _axis(self, axis: str | None) -> Mapping[str, int]:
        return self.axes.get(axis or "", UNKNOWN_AXIS)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the types of values that the graph does not tell, as far as ONNX infers them: cuts need them."""
    with suppress(onnx.shape_inference.InferenceError):
        return onnx.shape_inference.infer_shapes(model)
    return model


def _axes(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    """The bounds of each axis of the graph's inputs, as it is written there."""
    for name, _, shape in spec["declared"]["inputs"] if spec["declared"] else ():
        for position, axis in enumerate(shape):
            if isinstance(axis, str):
                yield axis, {end: spec["profile"][name][end][position] for end in UNKNOWN_AXIS}


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


def _shape(value: onnx.ValueInfoProto) -> list[int | str | None]:
    return [
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None
        for axis in value.type.tensor_type.shape.dim
    ]


def _write(piece: onnx.ModelProto, folder: Path, name: str) -> Path | None:
    """Writes the piece, whole with its weights, the script and the log into a new folder below the current one."""
    sizes = {name: size for name, _, size in read_spec(folder)["initializers"]}
    if sum(sizes.get(tensor.name, 0) for tensor in piece.graph.initializer) > LARGEST_BYTES:
        return None
    onnx.load_external_data_for_model(piece, str(folder))
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
    home = _new_folder(f"ingot-failed-{safe}")
    file = f"{safe}-fails.onnx"
    (home / file).write_bytes(piece.SerializeToString())
    spec = read_spec(folder)
    (home / SCRIPT).write_text(_script(piece, spec, file), encoding="utf-8")
    with suppress(FileNotFoundError):
        (home / LOG).write_bytes((folder / LOG).read_bytes())
    return home


def _new_folder(name: str) -> Path:
    """Nothing that is there is touched: the first free of NAME, NAME-2, NAME-3 …"""
    number = 1
    while True:
        home = Path(name if number == 1 else f"{name}-{number}")
        try:
            home.mkdir()
        except FileExistsError:
            number += 1
        else:
            return home


def _script(piece: onnx.ModelProto, spec: Mapping[str, Any], file: str) -> str:
    flavour = FLAVOURS[spec["flavour"]]
    axes = dict(_axes(spec))
    lines = [
        f'"""The smallest piece that {flavour.name} fails to build: pip install {flavour.distribution}."""',
        f"import pathlib, {flavour.module} as trt",
        "logger = trt.Logger(trt.Logger.INFO)",
        "builder = trt.Builder(logger)",
        "network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))",
        "parser = trt.OnnxParser(network, logger)",
        f'assert parser.parse((pathlib.Path(__file__).parent / "{file}").read_bytes()), parser.get_error(0).desc()',
        "config, profile = builder.create_builder_config(), builder.create_optimization_profile()",
    ]
    for value in piece.graph.input:
        shape = _shape(value)
        if any(not isinstance(axis, int) for axis in shape):
            ends = [
                [axis if isinstance(axis, int) else axes.get(axis or "", UNKNOWN_AXIS)[end] for axis in shape]
                for end in UNKNOWN_AXIS
            ]
            lines.append(f'profile.set_shape("{value.name}", {ends[0]}, {ends[1]}, {ends[2]})')
    if len(lines) > 8:
        lines.append("config.add_optimization_profile(profile)")
    if flavour.builds_without_gpu:
        lines.append(f"config.num_compute_capabilities = {len(spec['archs'])}")
        for index, arch in enumerate(spec["archs"]):
            lines.append(f"config.set_compute_capability(trt.ComputeCapability.{arch.replace('sm_', 'SM')}, {index})")
    lines.append('print("built" if builder.build_serialized_network(network, config) else "FAILED")')
    return "\n".join(lines) + "\n"
