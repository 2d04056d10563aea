"""Looks at the files of a folder before any framework does: what is missing, cut short, or not to be opened.

Format: https://huggingface.co/docs/safetensors (8 bytes little endian: length of a JSON header; the header; the data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.errors import SourceError

BY_HAND = "package.module:name, for a function that returns (model, example_inputs)"
"""What to type for a model that a folder does not describe well enough."""

_HEADER_LIMIT_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The safetensors files of a folder. `tensors` maps each tensor's name to (dtype as the file says it, shape)."""

    files: tuple[Path, ...]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads the headers of model.safetensors, or of every shard that model.safetensors.index.json names.

    Raises SourceError when there are none, when only pickles are there, or when a file is not whole.
    """
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise SourceError("the index of the weights has no 'weight_map'", where=str(index))
        files = [inside(folder, name) for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise _missing(file)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        tensors |= _read_header(file)
    return Checkpoint(tuple(files), tensors)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as data. Raises SourceError where it cannot be read or asks for quantised weights."""
    if not (folder / "config.json").is_file():
        raise SourceError(
            "config.json is missing, so this is not a Hugging Face folder",
            where=str(folder),
            fix="model.save_pretrained(folder) writes it; a download may have been cut short",
        )
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        method = dict(config["quantization_config"]).get("quant_method", "an unnamed method")
        raise SourceError(
            f"the weights are quantised ({method}); this version reads float32, float16 and bfloat16",
            where=str(folder / "config.json"),
            fix="compile the checkpoint that it was quantised from",
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises SourceError naming the file, and the line where it stops making sense."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path.name} is not JSON: {error}", where=str(path), fix="download the folder again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise SourceError(f"{path.name} holds a {type(data).__name__}, not an object", where=str(path))
    return data


def _missing(file: Path) -> SourceError:
    folder = file.parent
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return SourceError(
            f"the weights are pickled ({listed(pickles)}), and a pickle can run anything when it is opened",
            where=str(folder),
            fix="if you trust it: AutoModel.from_pretrained(folder).save_pretrained(new_folder), with the Auto class "
            "of the model's task, writes model.safetensors",
        )
    return SourceError(
        f"the weights are missing: there is no {file.name}",
        where=str(folder),
        fix="model.save_pretrained(folder) writes it; a download may have been cut short",
    )


def _read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise SourceError(
                f"{file.name} is a Git LFS pointer, not the weights ({size} bytes)",
                where=str(file),
                fix=f"cd {file.parent} && git lfs pull",
            )
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > size - 8:
            raise _cut_short(
                file, f"{size} bytes, where its header alone needs {8 + length}" if size >= 8 else f"{size} bytes"
            )
        if length > _HEADER_LIMIT_BYTES:
            raise SourceError(f"{file.name} claims a header of {length} bytes", where=str(file))
        stream.seek(8)
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        tensors = {
            name: (str(entry["dtype"]), tuple(int(axis) for axis in entry["shape"])) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SourceError(
            f"{file.name} is not a safetensors file: {error!r:.200}", where=str(file), fix="download it again"
        ) from error
    if 8 + length + end != size:
        if size < 8 + length + end:
            raise _cut_short(file, f"{size} bytes, where its header promises {8 + length + end}")
        raise SourceError(
            f"{file.name} is longer than it says: {size} bytes, where its header promises {8 + length + end}",
            where=str(file),
            fix="download it again",
        )
    return tensors


def _cut_short(file: Path, how: str) -> SourceError:
    return SourceError(f"{file.name} is cut short: {how}", where=str(file), fix="download it again")


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list and how many more there are: "a, b, c and 7 more"."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def inside(folder: Path, name: str) -> Path:
    """The path of a part that a file of the folder names. Raises SourceError where it lies outside the folder."""
    path = Path(os.path.normpath(folder / name))
    if Path(name).is_absolute() or not path.is_relative_to(os.path.normpath(folder)):
        raise SourceError(f"the folder names a part outside itself: {name!r}", where=str(folder))
    return path
