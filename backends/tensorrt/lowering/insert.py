"""Puts nodes in front of another, named after what they lead to and with its origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import add_constant, fresh_name

Dims = Sequence[int | str | ir.SymbolicDim | None] | Sequence[int | ir.SymbolicDim] | Sequence[int] | ir.Shape


class Inserter:
    """Makes nodes in front of `node`, in the graph or body that it is in. `names` are taken, and grow."""

    def __init__(self, node: ir.Node, names: set[str]) -> None:
        assert node.graph is not None
        self._node = node
        self._graph = node.graph
        self._names = names
        self._stem = node.outputs[0].name

    def __call__(
        self,
        operator: str,
        *inputs: ir.Value | None,
        dtype: ir.DataType | None = None,
        shape: Dims | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """The first result of a new standard operator."""
        made = ir.node(operator, list(inputs), attributes)
        return self.place(made, operator.lower(), dtype=dtype, shape=shape)

    def place(
        self, made: ir.Node, what: str, *, dtype: ir.DataType | None = None, shape: Dims | None = None
    ) -> ir.Value:
        """Puts a node that was made elsewhere in front; its first result."""
        copy_provenance(self._node, made)
        self._graph.insert_before(self._node, made)
        result = made.outputs[0]
        result.name = fresh_name(f"{self._stem}_{what}", self._names)
        result.type = None if dtype is None else ir.TensorType(dtype)
        result.shape = None if shape is None else ir.Shape(shape)
        return result

    def constant(self, numbers: Any, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        array = np.asarray(numbers).astype(dtype.numpy())
        name = fresh_name(f"{self._stem}_constant", self._names)
        return add_constant(self._graph, name, ir.Tensor(array, dtype=dtype, name=name))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of one axis, [1]: a constant where it is known."""
        if value.shape is not None and isinstance(value.shape[axis], int):
            return self.constant([value.shape[axis]])
        return self("Shape", value, dtype=ir.DataType.INT64, shape=[1], start=axis, end=axis + 1)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Puts `new` in the place of `old`: readers, name, type and shape; as an output of the graph too."""
    new.type, new.shape = old.type, old.shape
    name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
