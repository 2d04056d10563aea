"""What TensorRT says while it parses and builds: kept line by line on the disk, and summed up for people."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LETTERS = ("F", "E", "W", "I", "V")
"""Of TensorRT's severities, in their order: internal error, error, warning, info, verbose."""

_NO_DRIVER = re.compile(
    r"\[?checkMacros\.cpp::catchCudaError::\d+\] Error Code 1: Cuda Runtime \(.*?\(cudaError 35:[^)]*\)+"
    r"|ModelImporter\.cpp:\d+: --- (Begin|End) node ---.*"
)
"""What it says of a machine without a GPU, again and again: it builds all the same. And the frames of its messages."""
_NOISE = re.compile(
    r"\s*\bIn (function )?[\w:]+ at /\S+?:\d+|\[\w+\.cpp:+\w*:*\d*(: \w+)?\] ?|(ERROR: )?\bModelImporter\.cpp:\d+:? ?"
    r"|In function \w+: |\[\d\] |\w+::\w+: Error Code \d+: |Error Code \d+: "
)
_LONGEST_LINE = 600
_KEPT_BYTES = 1 << 20


def keep(trt: Any, path: Path) -> Any:
    """An ILogger that appends every message from info up to `path`, written at once: an abort loses none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = int(severity)
            if level < LETTERS.index("V"):
                text = " ".join(message.split())
                line = f"{LETTERS[level]} {text[:_LONGEST_LINE]}\n".encode(errors="replace")
                # An exception would end the process in the middle of TensorRT; a full disk is told by who writes more.
                with suppress(OSError):
                    os.write(descriptor, line)

    return Kept()


def lines(path: Path) -> list[tuple[str, str]]:
    """(letter, message) of every line of a log, a repeated one once; nothing where there is no log."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _KEPT_BYTES))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    found = [(line[:1], line[2:]) for line in text.splitlines() if line[:1] in LETTERS and line[1:2] == " "]
    return list(dict.fromkeys(found))


def errors(path: Path) -> list[str]:
    """The errors of a log, without the places in TensorRT's own sources."""
    found = lines(path)
    return list(dict.fromkeys([*_said(found, "F"), *_said(found, "E")]))


def readable(message: str) -> str:
    """Without the places in TensorRT's own sources; empty where it only says that there is no driver."""
    return " ".join(_NOISE.sub("", _NO_DRIVER.sub("", message)).split())


def _said(found: list[tuple[str, str]], letter: str) -> Iterator[str]:
    return filter(None, dict.fromkeys(readable(text) for kind, text in found if kind == letter))


def summary(path: Path) -> dict[str, Any]:
    """For the record: warnings and errors in full, the rest as a count."""
    all_lines = lines(path)
    said = {letter: list(_said(all_lines, letter)) for letter in "EW"}
    return {"lines": len(all_lines), "errors": said["E"], "warnings": said["W"]}
