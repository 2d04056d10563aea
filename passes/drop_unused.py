"""Removes what no output needs."""

from __future__ import annotations

import onnx_ir as ir

from ingot.ir.checks import subgraphs
from ingot.ir.rewrite import all_graphs, remove_node
from ingot.passes.contract import Notes, Pass


class DropUnused(Pass):
    """a node, initializer, function or opset import that no output depends on -> nothing

    Every operator of ONNX and of `ingot` is a function of its inputs, so that an unread one has no effect. exact
    What a body reads from outside counts as read. Graph inputs stay, read or not.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        self._drop_nodes(model.graph, notes)
        for function in model.functions.values():
            self._drop_nodes(function.graph, notes)
        for graph in all_graphs(model):
            for name, value in list(graph.initializers.items()):
                if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                    del graph.initializers[name]
                    notes.rewrites += 1
        called = _called(model)
        for identifier in [identifier for identifier in model.functions if identifier not in called]:
            del model.functions[identifier]
            notes.rewrites += 1
        domains = {"", *(node.domain for node in model.graph.all_nodes())}
        domains.update(node.domain for function in model.functions.values() for node in function.all_nodes())
        for domain in [domain for domain in model.opset_imports if domain not in domains]:
            del model.opset_imports[domain]
            notes.rewrites += 1
        return notes.rewrites > 0

    def _drop_nodes(self, graph: ir.Graph, notes: Notes) -> None:
        # From the last to the first, so that one walk takes a whole chain.
        for node in reversed(graph):
            if any(value.uses() or value.is_graph_output() for value in node.outputs):
                for body in subgraphs(node):
                    self._drop_nodes(body, notes)
            else:
                remove_node(node)
                notes.rewrites += 1


def _called(model: ir.Model) -> set[ir.OperatorIdentifier]:
    called: set[ir.OperatorIdentifier] = set()
    pending = [node.op_identifier() for node in model.graph.all_nodes()]
    while pending:
        identifier = pending.pop()
        if identifier in model.functions and identifier not in called:
            called.add(identifier)
            pending += [node.op_identifier() for node in model.functions[identifier].all_nodes()]
    return called
