"""What a target's kernels cover: operator sets by ONNX's own definitions, and the nodes that nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from ingot.backends.contract import No, Yes
from ingot.errors import UnsupportedOperatorError
from ingot.ir.checks import subgraphs
from ingot.ir.provenance import where

NO_END = 2**31 - 1
"""How ONNX Runtime's registry writes a kernel without a last operator set."""

KERNEL = "ONNX Runtime kernel"

Supports = Callable[[ir.Node, Mapping[str, int]], Yes | No]


def qualified(domain: str, operator: str) -> str:
    return f"{domain}.{operator}" if domain else operator


@cache
def schemas() -> list[Any]:
    """Every version of every operator that ONNX defines."""
    return list(onnx.defs.get_all_schemas_with_history())


@cache
def versions() -> dict[str, list[int]]:
    """In which operator sets the definition of an operator changed."""
    found: dict[str, list[int]] = {}
    for schema in schemas():
        found.setdefault(qualified(schema.domain, schema.name), []).append(schema.since_version)
    return found


def end_of(low: int, operator: str) -> int | None:
    """Up to which operator set a kernel without an end is good: ONNX Runtime has none for a definition that is newer
    than the kernel's. None where the definition is still the newest."""
    later = [version for version in versions().get(operator, ()) if version > low]
    return min(later) - 1 if later else None


def unsupported(model: ir.Model, supports: Supports) -> list[tuple[ir.Node, No]]:
    """The nodes of the graph and of the bodies inside it that the target does not run; calls of functions are inlined
    before."""
    found: list[tuple[ir.Node, No]] = []

    def walk(graph: ir.Graph) -> None:
        for node in graph:
            answer = supports(node, model.opset_imports)
            if isinstance(answer, No):
                found.append((node, answer))
            for inner in subgraphs(node):
                walk(inner)

    walk(model.graph)
    return found


def refuse(target: str, missing: Sequence[tuple[ir.Node, No]]) -> None:
    """Raises UnsupportedOperatorError where there is such a node, naming all of them and their lines."""
    if missing:
        listed = "".join(f"\n  {answer.reason}: {where(node)}" for node, answer in missing)
        raise UnsupportedOperatorError(
            f"target {target} does not run {len(missing)} of the graph's nodes:{listed}",
            fix="another dtype or another operator in the model's code, on the lines named",
        )
