"""Runs a script where some packages cannot be imported: `python -m benchmarks.without torch,onnx SCRIPT ARGUMENT…`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class Absent:
    """An import finder to which these packages, and all inside them, are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named '{name}' (kept out on purpose)", name=name)
        return None


def main() -> None:
    names, script, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, Absent(names.split(",")))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
