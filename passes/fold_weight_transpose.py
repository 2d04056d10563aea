"""Stores a weight in the order in which it is read, so that no runtime reorders it at load."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.ir.rewrite import all_nodes, constant_tensor, remove_node, replace_by_constant
from ingot.passes.contract import Notes, Pass
from ingot.passes.fuse_transposes import permutation


class FoldWeightTranspose(Pass):
    """Transpose(weight) -> the weight transposed

    weight of any rank and size, [I, H] of a Linear for one. exact
    Nothing is copied: the new weight is a view of the old, made when the file is written, and one for all that read it.
    Declines a weight that is also read as it is, or in another order: two copies would be stored. Declines elements
    smaller than a byte.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        made: dict[tuple[int, tuple[int, ...]], ir.LazyTensor] = {}
        for node in all_nodes(model):
            if node.op_type != "Transpose" or node.domain != "":
                continue
            weight = node.inputs[0]
            tensor = constant_tensor(weight)
            if weight is None or tensor is None:
                continue
            perm = permutation(node)
            if perm is None:
                notes.decline(node, "its rank is not known")
            elif tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
                notes.decline(node, "its elements are smaller than a byte")
            elif any(not _same_transpose(reader, perm) for reader in weight.consumers()) or weight.is_graph_output():
                notes.decline(node, f"{weight.name} is also read in another order")
            elif replace_by_constant(node.outputs[0], made.setdefault((id(tensor), perm), transposed(tensor, perm))):
                remove_node(node)
                notes.rewrites += 1
            else:
                notes.decline(node, "it is an output of the graph")
        return notes.rewrites > 0


def _same_transpose(reader: ir.Node, perm: tuple[int, ...]) -> bool:
    return reader.op_type == "Transpose" and reader.domain == "" and permutation(reader) == perm


def transposed(tensor: ir.TensorProtocol, perm: tuple[int, ...]) -> ir.LazyTensor:
    """A tensor that reads `tensor` in another order of axes. `numpy()` gives a view where that of `tensor` does."""

    def view() -> ir.TensorProtocol:
        return ir.Tensor(np.transpose(tensor.numpy(), perm), dtype=tensor.dtype)

    sizes = tensor.shape.numpy()
    return ir.LazyTensor(view, dtype=tensor.dtype, shape=ir.Shape([sizes[axis] for axis in perm]))
