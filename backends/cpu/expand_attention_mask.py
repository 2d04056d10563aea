"""Gives Attention a mask of the full height, which ONNX Runtime's kernel asks for."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.dims import same_dim
from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import add_constant, all_nodes, fresh_name, value_names
from ingot.passes.contract import Notes, Pass


class ExpandAttentionMask(Pass):
    """Attention(q, k, v, mask [B, N, 1, Skv]) -> Attention(q, k, v, Expand(mask) [B, N, S, Skv])

    q [B, S, N·D] or [B, N, S, D]; the mask may have 2 to 4 axes   exact
    ONNX lets the mask broadcast; ONNX Runtime 1.31 takes it for the wrong shape unless its height is the queries'.
    Declines a mask whose height is not known to be 1.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Attention" or node.domain != "" or len(node.inputs) < 4 or node.inputs[3] is None:
                continue
            query, mask = node.inputs[0], node.inputs[3]
            if query is None or query.shape is None or mask.shape is None or len(mask.shape) < 2:
                notes.decline(node, "the shapes of its queries or its mask are not known")
                continue
            axis = len(query.shape) - 2
            if mask.shape[-2] != 1 or same_dim(query.shape[axis], 1):
                if not same_dim(mask.shape[-2], query.shape[axis]):
                    height = f"a height of {mask.shape[-2]}, its queries of {query.shape[axis]}"
                    notes.decline(node, f"its mask has {height}")
                continue
            node.replace_input_with(3, _expanded(node, query, mask, axis, names))
            notes.rewrites += 1
        return notes.rewrites > 0


def _expanded(node: ir.Node, query: ir.Value, mask: ir.Value, axis: int, names: set[str]) -> ir.Value:
    assert node.graph is not None
    assert mask.shape is not None
    assert query.shape is not None
    height = ir.node("Shape", [query], {"start": axis, "end": axis + 1})
    one_name = fresh_name(f"{node.outputs[0].name}_mask_one", names)
    one = add_constant(node.graph, one_name, ir.tensor([1], ir.DataType.INT64))
    target = ir.node("Concat", [height.outputs[0], one], {"axis": 0})
    expand = ir.node("Expand", [mask, target.outputs[0]])
    for made, what in ((height, "height"), (target, "target"), (expand, "expanded")):
        made.outputs[0].name = fresh_name(f"{node.outputs[0].name}_mask_{what}", names)
        copy_provenance(node, made)
    height.outputs[0].dtype = target.outputs[0].dtype = ir.DataType.INT64
    result = expand.outputs[0]
    result.type = mask.type
    result.shape = ir.Shape([*mask.shape[:-2], query.shape[axis], mask.shape[-1]])
    node.graph.insert_before(node, [height, target, expand])
    return result
