"""Gives the graph an older operator set where that has CUDA kernels and the newer one has none."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from ingot.backends.contract import Yes
from ingot.backends.cuda.kernels import kernel_for
from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import Notes, Pass

OLDEST = 21
"""Down to here definitions differ by dtypes and by attributes that were added, which tells them apart safely; before it
some changed their meaning."""


class LowerOperatorSet(Pass):
    """operator set 24 -> 23, 22 or 21, where MaxPool (say) has a CUDA kernel in the older one only

    Any shapes   exact
    ONNX's operator set 22 let MaxPool, Elu, Dropout and others take bfloat16 as well, and ONNX Runtime 1.31 has their
    CUDA kernels for the definition before. Declines when nothing is gained; when a node is newer than the older set, or
    has an attribute, an input or a dtype that is; or when another node would lose its kernel.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        now = model.opset_imports.get("", 0)
        nodes = [node for node in all_nodes(model) if node.domain == ""]
        lacking = [node for node in nodes if not isinstance(kernel_for(node, now), Yes)]
        gaining: list[ir.Node] = []
        for version in range(now - 1, OLDEST - 1, -1):
            gaining = [node for node in lacking if isinstance(kernel_for(node, version), Yes)]
            if gaining and (reason := _hindrance(nodes, lacking, now, version)) is None:
                model.opset_imports[""] = version
                for node in nodes:
                    node.version = None
                notes.rewrites += 1
                return True
        for node in gaining:
            notes.decline(node, f"operator set {OLDEST} has a kernel, but {reason}")
        return False


def _hindrance(nodes: list[ir.Node], lacking: list[ir.Node], now: int, version: int) -> str | None:
    """Why the graph cannot be of operator set `version`."""
    for node in nodes:
        if not means_the_same(node, now, version):
            return f"{node.op_type} has another definition there"
        if node not in lacking and not isinstance(kernel_for(node, version), Yes):
            return f"{node.op_type} has none"
    return None


def means_the_same(node: ir.Node, now: int, version: int) -> bool:
    """Whether the two definitions differ by dtypes alone, as far as this node uses them."""
    newer = onnx.defs.get_schema(node.op_type, now, "")
    try:
        older = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    if newer.since_version == older.since_version:
        return True
    if not set(node.attributes) <= set(older.attributes) <= set(newer.attributes):
        return False
    if any(_default(older, name) != _default(newer, name) for name in older.attributes):
        return False
    used = (len(node.inputs), len(node.outputs))
    forms = [(_forms(schema.inputs)[: used[0]], _forms(schema.outputs)[: used[1]]) for schema in (older, newer)]
    return forms[0] == forms[1] and all(
        value is None or value.dtype is None or _allows(older, value.dtype) for value in [*node.inputs, *node.outputs]
    )


def _default(schema: Any, name: str) -> tuple[Any, bytes]:
    attribute = schema.attributes[name]
    return attribute.type, attribute.default_value.SerializeToString()


def _forms(formals: Any) -> list[tuple[str, Any]]:
    return [(formal.type_str, formal.option) for formal in formals]


def _allows(schema: Any, dtype: ir.DataType) -> bool:
    """Whether any type of the definition may have this dtype; which one is the kernel table's to say."""
    names = {text for formal in [*schema.inputs, *schema.outputs] for text in formal.types}
    return f"tensor({dtype.name.lower()})" in names
