"""Stores equal constants and tied weights once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.ir.checks import SMALL_TENSOR_BYTES
from ingot.ir.rewrite import all_graphs
from ingot.passes.contract import Notes, Pass


class MergeInitializers(Pass):
    """two initializers that hold the same -> one

    Any shapes. Up to 1 KiB they are compared by content, above by the memory or file they lie in, so that no weight
    is read; the first name stays. exact
    Declines initializers that are inputs or outputs of a graph.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        outermost: dict[Hashable, ir.Value] = {}
        # An address tells weights apart only while both exist; some tensors make a new array each time they are asked.
        held: list[np.ndarray[Any, Any]] = []
        for graph in all_graphs(model):
            # A body sees the outermost graph's initializers, never those of a body beside it.
            own = outermost if graph is model.graph else dict(outermost)
            for name, value in list(graph.initializers.items()):
                key = None if value.const_value is None else _content(value.const_value, held)
                if key is None:
                    continue
                if value.is_graph_input() or value.is_graph_output():
                    notes.declined.append(f"initializer {name}: it is an input or output of a graph")
                    continue
                first = own.setdefault(key, value)
                if first is not value:
                    value.replace_all_uses_with(first)
                    del graph.initializers[name]
                    notes.rewrites += 1
        return notes.rewrites > 0


def _content(tensor: ir.TensorProtocol, held: list[np.ndarray[Any, Any]]) -> Hashable:
    """Equal for two tensors only when they hold the same; None when that cannot be told without reading a weight."""
    kind = (tensor.dtype, tuple(tensor.shape))
    if isinstance(tensor, ir.ExternalTensor):
        return (*kind, str(tensor.path), tensor.offset)
    if isinstance(tensor, ir.StringTensor):
        return None
    if isinstance(tensor, ir.LazyTensor):
        return (*kind, id(tensor))
    if tensor.nbytes <= SMALL_TENSOR_BYTES:
        return (*kind, tensor.tobytes())
    array = tensor.numpy()
    held.append(array)
    return (*kind, array.__array_interface__["data"][0], array.strides)
