"""What a check of the table of operators asks of a node: constants, dims, attributes, and where indices come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.ir.rewrite import constant_tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """A node, and the version of its operator set."""

    node: ir.Node
    version: int

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def has(self, index: int) -> bool:
        return self.input(index) is not None

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        return constant_of(self.input(index))

    def dims(self, index: int = 0) -> list[int | None] | None:
        """None where the rank is not known, None in the list for a dynamic dim."""
        return dims_of(self.input(index))

    def rank(self, index: int = 0) -> int | None:
        dims = self.dims(index)
        return None if dims is None else len(dims)

    def dtype(self, index: int = 0) -> str | None:
        return dtype_of(self.input(index))

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        if found is None:
            return default
        return found.value

    def text(self, name: str, default: str) -> str:
        value = self.attribute(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


Check = Callable[[Asked], str | None]
"""Why TensorRT does not run the node as meant, and what would work; None where it does."""


def constant_of(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The numbers of an initializer or of a Constant node."""
    tensor = constant_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor().numpy()
        if name in ("value_int", "value_ints"):
            return np.asarray(attribute.value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.asarray(attribute.value, np.float32)
    return None


def dims_of(value: ir.Value | None) -> list[int | None] | None:
    if value is None:
        return None
    if value.shape is None:
        constant = constant_of(value)
        return None if constant is None else list(constant.shape)
    return [size if isinstance(size, int) else None for size in value.shape.dims]


def dtype_of(value: ir.Value | None) -> str | None:
    """As a signature spells it; None where it is not known or the value is no tensor."""
    return None if value is None or value.dtype is None else spelled(value.dtype)


def spelled(dtype: ir.DataType) -> str:
    name = dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


_KEEPS_SIGN = {
    "Abs", "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Relu", "CumSum", "Split", "GatherElements", "ReduceMax", "ReduceMin",
}  # fmt: skip
_COUNTS = {"Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Abs", "Relu"}
_OF_EACH = {"Add", "Mul", "Min", "Max", "Div", "Concat", "Where"}


def never_negative(value: ir.Value | None, depth: int = 32) -> bool:
    """Whether indices are known to count from the front: by constants, counts, or a Where that wraps them."""
    constant = constant_of(value)
    if constant is not None:
        return bool((constant >= 0).all()) if constant.dtype.kind in "iuf" else True
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain != "":
        return False
    kind = node.op_type
    if kind in _COUNTS or (kind == "TopK" and value is node.outputs[1]):
        return True
    if kind == "Where" and _wraps(node):
        return True
    given = [each for each in node.inputs if each is not None]
    if kind == "Range":
        step = constant_of(node.inputs[2])
        return step is not None and bool((step > 0).all()) and never_negative(node.inputs[0], depth - 1)
    if kind in ("Max", "Clip"):
        return any(never_negative(each, depth - 1) for each in given[: 2 if kind == "Clip" else None][-2:])
    if kind == "Mod":
        return never_negative(given[1], depth - 1)
    if kind in _OF_EACH:
        return all(never_negative(each, depth - 1) for each in given[1 if kind == "Where" else 0 :])
    return kind in _KEEPS_SIGN and never_negative(given[0], depth - 1)


def _wraps(node: ir.Node) -> bool:
    """Where(Less(i, 0), Add(i, size), i)"""
    condition = None if node.inputs[0] is None else node.inputs[0].producer()
    added = None if node.inputs[1] is None else node.inputs[1].producer()
    if condition is None or added is None or condition.op_type != "Less" or added.op_type != "Add":
        return False
    zero = constant_of(condition.inputs[1])
    return (
        zero is not None
        and not zero.any()
        and condition.inputs[0] is node.inputs[2]
        and any(each is node.inputs[2] for each in added.inputs)
    )


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
