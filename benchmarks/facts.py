"""What a number depends on: the machine, who else uses it, and the versions of everything that is measured."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.installed import installed_version
from ingot.machine import cpu_model, default_threads, this_machine
from ingot.version import __version__

MEASURED = ("torch", "onnxruntime", "onnx", "onnx-ir", "transformers", "sentence-transformers", "tokenizers", "numpy")

BUSY = 0.1
LOOK_SECONDS = 0.5

_TOLD = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni")
_TOLD_PREFIXES = ("amx_", "asimd", "sve", "i8mm", "bf16")


def facts() -> dict[str, Any]:
    """Plain data, for the JSON and for `told`."""
    machine = this_machine()
    return {
        "cpu": cpu_model(),
        "arch": machine.arch,
        "features": sorted(f for f in machine.features if f in _TOLD or f.startswith(_TOLD_PREFIXES)),
        "threads": default_threads(),
        "busy": _busy(),
        "python": platform.python_version(),
        "versions": {"ingot": __version__, **{name: installed_version(name) for name in MEASURED}},
    }


def told(found: Mapping[str, Any]) -> str:
    """`facts` as two lines, and a third where others are using the machine."""
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["versions"].items())
    lines = [
        f"{found['cpu']}, {found['threads']} cores to use, {' '.join(found['features']) or 'no features known'}",
        f"Python {found['python']}, {versions}",
    ]
    if found["busy"] > BUSY:
        lines.append(f"others keep {found['busy']:.0%} of this machine busy: ratios may hold, times will not")
    return "\n".join(lines)


def _busy() -> float:
    """The share of all processor time that went to others while this process slept; 0 where nothing tells it."""
    try:
        before = _processor_times()
        time.sleep(LOOK_SECONDS)
        after = _processor_times()
    except OSError:
        return 0.0
    spent = [new - old for old, new in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]
    return 1 - idle / sum(spent) if sum(spent) else 0.0


def _processor_times() -> list[int]:
    """user, nice, system, idle, iowait, … in ticks since the machine started."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    return [int(ticks) for ticks in line.split()[1:9]]
