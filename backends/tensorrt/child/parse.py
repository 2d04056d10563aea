"""Parses a staged graph into a TensorRT network: weights read in place from a mapped file, nothing copied."""

from __future__ import annotations

import importlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.plugin import host as plugin_host
from ingot.backends.tensorrt.plugin.preload import preload

SPEC, RESULT, LOG, OUTPUT = "spec.json", "result.json", "build.log", "output.txt"
GRAPH, WEIGHTS, PLAN, LAYERS = "graph.onnx", "weights.bin", "plan.bin", "layers.json"
"""The files of a build, all in one folder."""

NO_ROOM = 74
"""The exit code of a build's child that found the disk full: sysexits' EX_IOERR."""


class StageError(Exception):
    """Why there is no plan: `kind` is "module", "parse", "audit" or "build", `items` what each fault is."""

    def __init__(self, kind: str, items: list[dict[str, Any]]) -> None:
        super().__init__(kind)
        self.kind, self.items = kind, items


@dataclass(slots=True)
class Parsed:
    """A network and what must live as long as it does."""

    trt: Any
    logger: Any
    builder: Any
    network: Any
    plugins: Any
    held: list[Any] = field(default_factory=list)


def read_spec(folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    return spec


def load_module(flavour_name: str) -> Any:
    """Raises StageError where the flavour's package is missing or does not load."""
    flavour = FLAVOURS[flavour_name]
    try:
        module = importlib.import_module(flavour.module)
        preload(flavour)
    except (ImportError, OSError) as error:
        raise StageError("module", [{"message": f"{type(error).__name__}: {error}"}]) from error
    return module


def parse(trt: Any, logger: Any, spec: Mapping[str, Any], folder: Path, *, to_build: bool = True) -> Parsed:
    """A network that is `to_build`, or only to be looked at. Raises StageError with what the parser refuses, node by
    node."""
    runs = to_build and not FLAVOURS[spec["flavour"]].builds_without_gpu
    host = _running(trt, spec, folder) if runs and spec["plugins"] else plugin_host.register(trt, spec["plugins"])
    builder = trt.Builder(logger)
    if builder is None:
        raise StageError("module", [{"message": "TensorRT makes no builder here"}])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # The parser reads initializers by address: the mapping must outlive the network.
    weights = _mapped(folder / spec.get("weights", WEIGHTS))
    held = [host, parser, weights]
    loaded = parser.load_model_proto((folder / GRAPH).read_bytes(), str(folder / GRAPH))
    for name, offset, size_bytes in spec["initializers"]:
        if not loaded:
            break
        if not parser.load_initializer(name, weights.ctypes.data + offset, size_bytes):
            raise StageError("parse", [{"message": f"the parser does not take the weight '{name}'"}])
    if not (loaded and parser.parse_model_proto()):
        faults = [_fault(parser.get_error(index)) for index in range(parser.num_errors)]
        raise StageError("parse", [*_of_plugins(host), *faults])
    return Parsed(trt, logger, builder, network, host, held)


def _running(trt: Any, spec: Mapping[str, Any], folder: Path) -> Any:
    """Full TensorRT runs a plugin while it builds, on the GPU: then it needs its kernels."""
    from ingot.device.context import open_cuda

    return plugin_host.register(trt, spec["plugins"], lambda member: (folder / member).read_bytes(), open_cuda(0))


def _of_plugins(host: Any) -> list[dict[str, Any]]:
    return [{"message": host.problem}] if host.problem else []


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    if path.stat().st_size == 0:
        return np.zeros(1, np.uint8)
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _fault(error: Any) -> dict[str, Any]:
    return {
        "message": str(error.desc()),
        "code": getattr(error.code(), "name", str(error.code())),
        "node": str(error.node_name()),
        "operator": str(error.node_operator()),
    }
