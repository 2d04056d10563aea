"""Computes at build time what depends on constants alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ingot.ir.checks import SMALL_TENSOR_BYTES
from ingot.ir.dims import static_shape
from ingot.ir.evaluate import NotComputed, evaluate
from ingot.ir.rewrite import all_nodes, constant_array, constant_tensor, remove_node, replace_by_constant
from ingot.passes.contract import Notes, Pass

INPUT_BYTES = 16 << 20
GROWTH_BYTES = 1 << 16


class FoldConstants(Pass):
    """f(constants) -> a constant; Constant -> an initializer

    Any shapes; known or not, for the constants have theirs. exact: ingot.ir.evaluate knows the operators for which
    that can be said, and the numbers for which it cannot.
    Declines graph outputs, other operators, inputs above 16 MiB, and a result that is more than 64 KiB larger than the
    inputs or that would store a weight of that size twice. A Transpose of more than 1 KiB is fold_weight_transpose's,
    which copies nothing.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.domain != "" or not node.outputs or any(value.is_graph_output() for value in node.outputs):
                continue
            if node.op_type == "Constant":
                tensor = ir.convenience.get_const_tensor(node.outputs[0])
                results = None if tensor is None else [tensor]
            elif node.inputs and all(value is None or constant_tensor(value) is not None for value in node.inputs):
                results = _results(node, notes)
            else:
                continue
            if results is not None:
                for value, tensor in zip(node.outputs, results, strict=True):
                    replace_by_constant(value, tensor)
                remove_node(node)
                notes.rewrites += 1
        return notes.rewrites > 0


def _results(node: ir.Node, notes: Notes) -> list[ir.TensorProtocol] | None:
    arrays = [None if value is None else constant_array(value, limit_bytes=INPUT_BYTES) for value in node.inputs]
    known = [array for array in arrays if array is not None]
    given_bytes = sum(array.nbytes for array in known)
    if len(known) < sum(value is not None for value in node.inputs):
        return None
    if node.op_type == "Transpose" and given_bytes > SMALL_TENSOR_BYTES:
        return None
    try:
        results = evaluate(node, arrays, limit_bytes=given_bytes + GROWTH_BYTES)
    except NotComputed as reason:
        notes.decline(node, str(reason))
        return None
    if sum(result.nbytes for result in results) > GROWTH_BYTES:
        for given in node.inputs:
            if given is not None and any(constant_tensor(other) is None for other in _read_beside(given)):
                notes.decline(node, f"{given.name} is also read as it is, and would be stored twice")
                return None
    for value, result in zip(node.outputs, results, strict=True):
        dtype = ir.DataType.from_numpy(result.dtype)
        if static_shape(value) not in (result.shape, None) or value.dtype not in (dtype, None):
            notes.decline(node, f"it gives {result.dtype}{result.shape}, the graph says otherwise")
            return None
    return [ir.Tensor(result) for result in results]


def _read_beside(value: ir.Value) -> Iterator[ir.Value]:
    """What the readers of a large constant read beside it; only constants, where all of them can be folded."""
    tensor = constant_tensor(value)
    if tensor is not None and tensor.nbytes > GROWTH_BYTES:
        for reader in value.consumers():
            yield from (other for other in reader.inputs if other is not None)
