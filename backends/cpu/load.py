"""Runs an engine by ONNX Runtime on a processor, its weights mapped straight out of the engine file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ingot.backends.needs import unmet
from ingot.machine import Machine, Unmet

if TYPE_CHECKING:
    from ingot.backends.onnxruntime.session import OrtSession
    from ingot.file.header import Target
    from ingot.file.read import EngineFile


class CpuLoader:
    """The production side of the target `cpu`."""

    name = "cpu"
    needs: Mapping[str, str] = {"onnxruntime": ">=1.31"}
    build_needs: Mapping[str, str] = needs

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        """From names of folders and /proc alone; ONNX Runtime is not imported."""
        return unmet(target, machine)

    def load(self, file: EngineFile, target: Target, *, threads: int) -> OrtSession:
        """Raises RequirementError where ONNX Runtime is missing or double, EngineError where it refuses the graph."""
        # The path of `ingot check` does not pay for it.
        from ingot.backends.onnxruntime.session import (
            OrtSession,
            checked_options,
            errors_of,
            import_runtime,
            make_session,
        )

        onnxruntime = import_runtime(self.name, "onnxruntime", "cpu")
        chosen = checked_options(target)
        session = make_session(onnxruntime, file, target, chosen, threads=threads, providers=["CPUExecutionProvider"])
        signature, errors = file.header.signature, errors_of(onnxruntime)
        return OrtSession(session, signature, errors, path=file.path, forks=threads == 1)


LOADER = CpuLoader()
