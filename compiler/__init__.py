"""Ingot turns a PyTorch model into one verified engine file that production loads without PyTorch.

Names are imported on first use, so `import ingot` costs nothing and production never pays for the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ingot":
    raise ImportError(f"this folder is the package `ingot`, not `{__name__}`: `pip install -e .`, then `import ingot`")

if TYPE_CHECKING:
    from ingot.api import check, compile, load
    from ingot.errors import CompileError, EngineError, IngotError, UsageError
    from ingot.runtime.embedder import Embedder
    from ingot.runtime.engine import Engine
    from ingot.runtime.output import Output
    from ingot.version import __version__

_HOME = {
    "CompileError": "ingot.errors",
    "Embedder": "ingot.runtime.embedder",
    "Engine": "ingot.runtime.engine",
    "EngineError": "ingot.errors",
    "IngotError": "ingot.errors",
    "Output": "ingot.runtime.output",
    "UsageError": "ingot.errors",
    "__version__": "ingot.version",
    "check": "ingot.api",
    "compile": "ingot.api",
    "load": "ingot.api",
}

__all__ = [
    "CompileError",
    "Embedder",
    "Engine",
    "EngineError",
    "IngotError",
    "Output",
    "UsageError",
    "__version__",
    "check",
    "compile",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ingot' has no attribute '{name}'; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
