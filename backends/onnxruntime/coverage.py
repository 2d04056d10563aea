"""What a target's kernels cover: operator sets by ONNX's own definitions, and the nodes that nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

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


class Kernel(NamedTuple):
    """Good for operator sets `low` to `high` (None: all later ones); `dtypes` by the types of ONNX's definition."""

    low: int
    high: int | None
    dtypes: Mapping[str, frozenset[str]]


def not_taken(known: Sequence[Kernel], node: ir.Node, version: int) -> str | None:
    """The dtypes that no kernel takes together; None where one does."""
    given = list(_given(node, version))
    if any(_takes(kernel, given) for kernel in known):
        return None
    return ", ".join(dict.fromkeys(dtype for _, dtype in given))


def _takes(kernel: Kernel, given: list[tuple[tuple[str, str], str]]) -> bool:
    return all(dtype in kernel.dtypes[name] for names, dtype in given for name in names if name in kernel.dtypes)


def _given(node: ir.Node, version: int) -> Iterator[tuple[tuple[str, str], str]]:
    """The dtype of every input and output that has one, under the names of its type and of itself in the definition."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return  # an operator of ONNX Runtime's own: it says by itself what it takes
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            dtype = None if value is None else _dtype(value)
            if dtype is not None and formals:
                # The last may be variadic.
                formal = formals[min(index, len(formals) - 1)]
                yield (formal.type_str, formal.name), dtype


def _dtype(value: ir.Value) -> str | None:
    if isinstance(value.type, ir.TensorType):
        return value.type.dtype.name.lower()
    if isinstance(value.type, ir.SequenceType) and isinstance(value.type.elem_type, ir.TensorType):
        return f"seq(tensor({value.type.elem_type.dtype.name.lower()}))"
    return None if value.type is None else str(value.type)
