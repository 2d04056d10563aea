"""What a finished build gives to the engine file: the target's entry, the plan and the list of layers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ingot.backends.tensorrt import log
from ingot.backends.tensorrt.child.layers import precisions
from ingot.backends.tensorrt.child.parse import LAYERS, LOG, PLAN
from ingot.backends.tensorrt.flavours import Flavour
from ingot.backends.tensorrt.profiles import as_option
from ingot.file.header import Target
from ingot.file.write import Part

_COPY_BYTES = 4 << 20


def target(flavour: Flavour, spec: Mapping[str, Any], result: Mapping[str, Any]) -> Target:
    needs = {
        flavour.distribution: f"=={result['version']}",
        "gpu": ",".join(spec["archs"]),
        "cuda": flavour.cuda,
        **({"code": "the shared libraries of its plugins"} if spec["libraries"] else {}),
    }
    options = {
        "profiles": as_option(spec["profile"]),
        "plugins": spec["plugins"],
        "unread": spec["declared"]["unread"],
        "proven": False,
    }
    return Target(flavour.name, {"plan": _plan(flavour), "layers": _layers(flavour)}, needs, options)


def parts(flavour: Flavour, folder: Path) -> list[Part]:
    """Read from `folder` when they are written."""
    return [file_part(_plan(flavour), folder / PLAN), file_part(_layers(flavour), folder / LAYERS)]


def notes(result: Mapping[str, Any], outcome_peak_bytes: int, folder: Path) -> dict[str, Any]:
    """For the record."""
    layers = json.loads((folder / LAYERS).read_text(encoding="utf-8"))
    found = {
        "layers": result["layers"],
        "precisions": precisions(layers),
        "plan_bytes": (folder / PLAN).stat().st_size,
        "seconds": {step: round(seconds, 3) for step, seconds in result["seconds"].items()},
        "peak_bytes": outcome_peak_bytes,
        "log": log.summary(folder / LOG),
    }
    if "timing_cache" in result:
        found["timing_cache"] = result["timing_cache"]
    return found


def file_part(name: str, path: Path) -> Part:
    """A member that is a file on the disk, streamed."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while data := stream.read(_COPY_BYTES):
                yield data

    return Part(name, path.stat().st_size, chunks)


def _plan(flavour: Flavour) -> str:
    return f"{flavour.name}/{PLAN}"


def _layers(flavour: Flavour) -> str:
    return f"{flavour.name}/{LAYERS}"
