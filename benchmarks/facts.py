"""What a number depends on: the machine, its load, and the versions of everything that is measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from ingot.installed import installed_version
from ingot.machine import cpu_model, default_threads, this_machine
from ingot.version import __version__

MEASURED = ("torch", "onnxruntime", "onnx", "onnx-ir", "transformers", "sentence-transformers", "tokenizers", "numpy")

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
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {"ingot": __version__, **{name: installed_version(name) for name in MEASURED}},
    }


def told(found: Mapping[str, Any]) -> str:
    """`facts` as two lines and a warning where others are using the machine."""
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in found["versions"].items())
    lines = [
        f"{found['cpu']}, {found['threads']} cores to use, {' '.join(found['features']) or 'no features known'}",
        f"Python {found['python']}, {versions}",
    ]
    if found["load"] > 0.5 * found["threads"]:
        lines.append(f"the machine is busy (load {found['load']:.1f}): ratios may hold, times will not")
    return "\n".join(lines)
