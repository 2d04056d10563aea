"""Writes the smallest piece that fails to build into a folder of the user's, with a polygraphy script that shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx

from ingot.backends.tensorrt.child.parse import LOG, read_spec
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.profiles import ENDS, End

LARGEST_BYTES = 1 << 30
"""A piece with more weights than this is not worth writing."""

UNKNOWN_AXIS: Mapping[End, int] = {"min": 1, "opt": 8, "max": 32}

SCRIPT = "reproduce.py"

Axes = Mapping[str, Mapping[End, int]]

_SCRIPT = '''"""Builds the smallest piece that {target} fails to build: pip install {distribution} polygraphy onnx

polygraphy inspect model {file} --show layers attrs    shows it
"""

import os
import pathlib

os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "{rtx:d}"
from polygraphy.backend import trt
{imports}
path = str(pathlib.Path(__file__).parent / "{file}")
network = trt.network_from_onnx_path(path, strongly_typed=True)
profile = trt.Profile()
{profile}engine = trt.engine_bytes_from_network(network, {config}(profiles=[profile]{archs}))
print("built", engine.nbytes, "bytes")
'''

_PLUGINS = """import {module}
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.plugin import host, preload

preload.preload(FLAVOURS["{target}"])
plugins = host.register({module}, {entries!r})
"""


def write(piece: onnx.ModelProto, folder: Path, name: str) -> Path | None:
    """The new folder below the current one, with the piece, whole with its weights, the script and the log of the build
    in `folder`; None where the piece is too large. Raises OSError and leaves nothing where it cannot be written."""
    spec = read_spec(folder)
    sizes = {name: size for name, _, size in spec["initializers"]}
    if sum(sizes.get(tensor.name, 0) for tensor in piece.graph.initializer) > LARGEST_BYTES:
        return None
    onnx.load_external_data_for_model(piece, str(folder))
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
    home = _new_folder(f"ingot-failed-{safe}")
    file = f"{safe}-fails.onnx"
    try:
        (home / file).write_bytes(piece.SerializeToString())
        (home / SCRIPT).write_text(_script(piece, spec, file), encoding="utf-8")
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / LOG, home / LOG)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return home


def axes(spec: Mapping[str, Any]) -> dict[str, Mapping[End, int]]:
    """The bounds of each axis of the graph's inputs, as it is written there."""
    declared = spec["declared"]["inputs"] if spec["declared"] else ()
    return {
        axis: {end: spec["profile"][name][end][position] for end in ENDS}
        for name, _, shape in declared
        for position, axis in enumerate(shape)
        if isinstance(axis, str)
    }


def profile(piece: onnx.ModelProto, bounds: Axes) -> dict[str, dict[End, list[int]]]:
    """The sizes to build a piece for, of each input that has a dynamic axis."""
    shapes = {value.name: list(_shape(value)) for value in piece.graph.input}
    return {
        name: {end: [axis if isinstance(axis, int) else _bounds(axis, bounds)[end] for axis in shape] for end in ENDS}
        for name, shape in shapes.items()
        if any(not isinstance(axis, int) for axis in shape)
    }


def _bounds(axis: str | None, bounds: Axes) -> Mapping[End, int]:
    return bounds.get(axis or "", UNKNOWN_AXIS)


def _shape(value: onnx.ValueInfoProto) -> Iterator[int | str | None]:
    for axis in value.type.tensor_type.shape.dim:
        yield axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None


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
    lines = [
        f"profile.add({name!r}, {sizes['min']}, {sizes['opt']}, {sizes['max']})\n"
        for name, sizes in profile(piece, axes(spec)).items()
    ]
    imports, config, archs = "", "trt.CreateConfig", ""
    if flavour.builds_without_gpu:
        imports, config = "from polygraphy.backend.tensorrt_rtx import CreateConfigRTX\n", "CreateConfigRTX"
        archs = f", compute_capabilities={[_capability(arch) for arch in spec['archs']]}"
    if spec["plugins"]:
        imports += _PLUGINS.format(
            module=flavour.module, target=flavour.name, entries=_without_kernels(spec["plugins"])
        )
    return _SCRIPT.format(
        target=flavour.name,
        distribution=flavour.distribution,
        rtx=flavour.builds_without_gpu,
        file=file,
        imports=imports,
        profile="".join(lines),
        config=config,
        archs=archs,
    )


def _capability(arch: str) -> tuple[int, int]:
    """(12, 0) of "sm_120"."""
    return divmod(int(arch.removeprefix("sm_")), 10)


def _without_kernels(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "kernels": []} for entry in entries]
