"""Gives Attention a mask of the full height, which ONNX Runtime's kernel asks for."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.dims import same_dim
from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import all_nodes, fresh_name, value_names
from ingot.passes.contract import Notes, Pass


class ExpandAttentionMask(Pass):
    """Attention(q, k, v, mask [B, N, 1 or S, 1 or Skv]) -> Attention(q, k, v, Expand(mask) [B, N, S, Skv])

    q [B, S, N·D] or [B, N, S, D]; the mask may have 2 to 4 axes   exact
    ONNX lets the mask broadcast; ONNX Runtime 1.31 takes it for the wrong shape unless its height is the queries' and
    its width the keys'. Declines a mask whose height or width is neither that nor known to be 1.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        names = value_names(model)
        for node in all_nodes(model):
            if node.op_type != "Attention" or node.domain != "" or len(node.inputs) < 4 or node.inputs[3] is None:
                continue
            query, key, mask = node.inputs[0], node.inputs[1], node.inputs[3]
            if any(value is None or value.shape is None for value in (query, key)) or _rank(mask) < 2:
                notes.decline(node, "the shapes of its queries, keys or mask are not known")
                continue
            assert query is not None
            assert query.shape is not None
            assert key is not None
            assert key.shape is not None
            assert mask.shape is not None
            axis = len(query.shape) - 2
            wanted = (query.shape[axis], key.shape[axis])
            missing = [not same_dim(has, wants) for has, wants in zip(mask.shape[-2:], wanted, strict=True)]
            if any(lacks and has != 1 for lacks, has in zip(missing, mask.shape[-2:], strict=True)):
                of = f"{mask.shape[-2]} by {mask.shape[-1]}, its queries and keys {wanted[0]} by {wanted[1]}"
                notes.decline(node, f"its mask is {of}")
            elif any(missing):
                node.replace_input_with(3, _expanded(node, query, key, mask, names))
                notes.rewrites += 1
        return notes.rewrites > 0


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _expanded(node: ir.Node, query: ir.Value, key: ir.Value, mask: ir.Value, names: set[str]) -> ir.Value:
    assert node.graph is not None
    assert mask.shape is not None
    assert query.shape is not None
    assert key.shape is not None
    axis = len(query.shape) - 2
    height, width = (ir.node("Shape", [value], {"start": axis, "end": axis + 1}) for value in (query, key))
    target = ir.node("Concat", [height.outputs[0], width.outputs[0]], {"axis": 0})
    expand = ir.node("Expand", [mask, target.outputs[0]])
    for made, what in ((height, "height"), (width, "width"), (target, "target"), (expand, "expanded")):
        made.outputs[0].name = fresh_name(f"{node.outputs[0].name}_mask_{what}", names)
        copy_provenance(node, made)
    for sizes in (height, width, target):
        sizes.outputs[0].dtype = ir.DataType.INT64
    result = expand.outputs[0]
    result.type = mask.type
    result.shape = ir.Shape([*mask.shape[:-2], query.shape[axis], key.shape[axis]])
    node.graph.insert_before(node, [height, width, target, expand])
    return result
