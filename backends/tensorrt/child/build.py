"""Builds a plan from a staged graph, in a process of its own: python -m ingot.backends.tensorrt.child.build FOLDER.

Imports numpy and the flavour's package, no torch and no onnx. What happened is in the folder's result.json; where that
is missing, the process died, or the disk was full and it ended with NO_ROOM.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from ingot.backends.tensorrt.child import timing_cache
from ingot.backends.tensorrt.child.audit import audit
from ingot.backends.tensorrt.child.layers import listed
from ingot.backends.tensorrt.child.parse import (
    LAYERS,
    LOG,
    NO_ROOM,
    PLAN,
    RESULT,
    Parsed,
    StageError,
    load_module,
    parse,
    read_spec,
)
from ingot.backends.tensorrt.child.process import die_with_parent
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.log import errors, keep


def main(arguments: list[str]) -> int:
    die_with_parent()
    folder = Path(arguments[0])
    try:
        return _recorded(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return NO_ROOM
        raise


def _recorded(folder: Path) -> int:
    try:
        result = build(folder)
    except StageError as error:
        result = {"error": {"kind": error.kind, "items": error.items}}
    except OSError:
        raise
    except MemoryError:
        result = {"error": {"kind": "memory", "items": []}}
    except Exception as error:  # noqa: BLE001 the parent shows it with its trace
        shown = {"message": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        result = {"error": {"kind": "exception", "items": [shown]}}
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write_whole(folder / RESULT, json.dumps(result).encode())
    return 1 if "error" in result else 0


def build(folder: Path) -> dict[str, Any]:
    spec = read_spec(folder)
    trt = load_module(spec["flavour"])
    began = time.perf_counter()
    parsed = parse(trt, keep(trt, folder / LOG), spec, folder)
    seconds = {"parse": time.perf_counter() - began}
    faults = audit(parsed.network, spec["declared"]) if spec["declared"] else []
    if faults:
        raise StageError("audit", [{"message": fault} for fault in faults])
    layers = listed(parsed.network, spec["where"])
    write_whole(folder / LAYERS, json.dumps(layers, separators=(",", ":")).encode())
    config = _config(parsed, spec)
    cache = timing_cache.attach(trt, config) if FLAVOURS[spec["flavour"]].timing_cache else None
    began = time.perf_counter()
    _write_plan(parsed, config, folder)
    seconds["build"] = time.perf_counter() - began
    result: dict[str, Any] = {"version": trt.__version__, "seconds": seconds, "layers": len(layers)}
    if cache is not None:
        result["timing_cache"] = cache.note
        with suppress(OSError):  # a disk without room costs time at the next build, and nothing else
            cache.keep(config)
    return result


def _config(parsed: Parsed, spec: Mapping[str, Any]) -> Any:
    trt, config = parsed.trt, parsed.builder.create_builder_config()
    # float32 means float32: its matrix products are not to be rounded to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if FLAVOURS[spec["flavour"]].builds_without_gpu:
        config.num_compute_capabilities = len(spec["archs"])
        for index, arch in enumerate(spec["archs"]):
            capability = getattr(trt.ComputeCapability, arch.replace("sm_", "SM"))
            if not config.set_compute_capability(capability, index):
                raise StageError("build", [{"message": f"the builder does not take the architecture {arch}"}])
    elif len(spec["archs"]) > 1:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if spec["libraries"]:
        config.plugins_to_serialize = spec["libraries"]
    if spec["profile"]:
        config.add_optimization_profile(_profile(parsed, spec["profile"], spec["domains"]))
    return config


def _profile(parsed: Parsed, sizes: Mapping[str, Any], domains: Mapping[str, Any]) -> Any:
    profile = parsed.builder.create_optimization_profile()
    for index in range(parsed.network.num_inputs):
        tensor = parsed.network.get_input(index)
        ends = sizes.get(tensor.name)
        if ends is not None:
            profile.set_shape(tensor.name, ends["min"], ends["opt"], ends["max"])
        if tensor.is_shape_tensor:
            # Its values are sizes of other tensors: the builder has to know how far they go.
            if tensor.name not in domains:
                raise StageError("build", [{"message": f"input {tensor.name} gives sizes, and has no bounds"}])
            low, high = domains[tensor.name]
            count = 1 if ends is None and not len(tensor.shape) else (ends["max"] if ends else list(tensor.shape))[0]
            profile.set_shape_input(tensor.name, [low] * count, [(low + high) // 2] * count, [high] * count)
    return profile


def _write_plan(parsed: Parsed, config: Any, folder: Path) -> None:
    """Streams the plan to the disk: it is never a second time in memory."""
    trt = parsed.trt
    temporary = folder / f"{PLAN}.tmp"
    refused: list[OSError] = []
    with temporary.open("wb", buffering=0) as stream:

        class ToDisk(trt.IStreamWriter):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IStreamWriter.__init__(self)

            def write(self, data: bytes) -> int:
                # An exception would end the process in the middle of TensorRT.
                try:
                    _write_all(stream, data)
                except OSError as error:
                    refused.append(error)
                    return 0
                return len(data)

        writer = ToDisk()
        built = parsed.builder.build_serialized_network_to_stream(parsed.network, config, writer)
    if refused:
        temporary.unlink()
        raise refused[0]
    plugins = [{"message": parsed.plugins.problem}] if parsed.plugins.problem else []
    if not built or temporary.stat().st_size == 0:
        said = [{"message": text} for text in errors(folder / LOG)]
        raise StageError("build", [*plugins, *said])
    if plugins:
        # A plan is built all the same where a plugin could not give its fields; it would not load.
        raise StageError("build", plugins)
    os.replace(temporary, folder / PLAN)


def _write_all(stream: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def write_whole(path: Path, data: bytes) -> None:
    """The file is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
