"""Computes once what a graph computes twice."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from ingot.ir.rewrite import all_graphs, remove_node, replace_value
from ingot.passes.contract import Notes, Pass

RANDOM = frozenset(
    ["Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]
)


class MergeCommonSubexpressions(Pass):
    """f(x), f(x) -> f(x)

    Two nodes of one graph with the same operator, attributes and inputs; the first stays. exact
    Declines operators that draw numbers, operators of other domains than ONNX's, nodes with bodies, and a node whose
    result and twin are both outputs of the graph.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for graph in all_graphs(model):
            first: dict[Hashable, ir.Node] = {}
            for node in graph:
                key = _expression(node)
                if key is None:
                    continue
                twin = first.setdefault(key, node)
                if twin is node:
                    continue
                if not _mergeable(node, twin):
                    notes.decline(node, f"it and {twin.outputs[0].name} are both outputs of the graph")
                    continue
                for old, new in zip(node.outputs, twin.outputs, strict=True):
                    replace_value(old, new)
                remove_node(node)
                notes.rewrites += 1
        return notes.rewrites > 0


def _mergeable(node: ir.Node, twin: ir.Node) -> bool:
    pairs = zip(node.outputs, twin.outputs, strict=True)
    return not any(old.is_graph_output() and new.is_graph_output() for old, new in pairs)


def _expression(node: ir.Node) -> Hashable:
    """Equal for two nodes that compute the same; None for a node that may not be merged."""
    if node.domain != "" or node.op_type in RANDOM:
        return None
    attributes: list[Hashable] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        if attribute.type == ir.AttributeType.TENSOR:
            # Constants are initializers by now; what still is one here is large or an output.
            attributes.append((name, id(attribute.as_tensor())))
        else:
            attributes.append((name, repr(attribute.value)))
    # The values, not their ids: an id is only good while its value lives.
    # An output without a name is not computed.
    return (node.op_type, tuple(node.inputs), tuple(attributes), tuple(value.name != "" for value in node.outputs))
