"""Where a node came from: the module that called the operator and the user's own source line."""

from __future__ import annotations

import ast
import re
from pathlib import PureWindowsPath

import onnx_ir as ir

MODULE = "ingot.module"
SOURCE = "ingot.source"

# What torch's exporter writes on a node; OUTSIDE is the scope of what it adds itself, the sizes of inputs.
SCOPES = "pkg.torch.onnx.name_scopes"
STACK = "pkg.torch.onnx.stack_trace"
OUTSIDE = "_empty_nn_module_stack_from_metadata_hook"
VERBOSE = ("namespace", "pkg.torch.", "pkg.onnxscript.")

FRAME = re.compile(r'^\s*File "(?P<path>[^"]+)", line (?P<line>\d+), in .*$')
TORCH = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]|[/\\]frontend[/\\]structure\.py$")


def module_path(node: ir.Node) -> str:
    """The path of the module as `named_modules` spells it, "encoder.layer.0"; "" for the root or when unknown."""
    if MODULE in node.metadata_props:
        return node.metadata_props[MODULE]
    # The scopes are the path of every module entered, the root "" first, and last the FX node itself.
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    path = str(scopes[-2]) if len(scopes) > 1 else ""
    return "" if path == OUTSIDE else path


def source_line(node: ir.Node) -> str:
    """ "modeling_bert.py:84: the code": the innermost frame that is not torch's own; "" when unknown.

    The file is named without its folder, so that nothing of the machine reaches an engine file.
    """
    if SOURCE in node.metadata_props:
        return node.metadata_props[SOURCE]
    lines = node.metadata_props.get(STACK, "").splitlines()
    found = ""
    for i, text in enumerate(lines):
        frame = FRAME.match(text)
        if not frame or TORCH.search(frame["path"]):
            continue
        code = lines[i + 1].strip() if i + 1 < len(lines) and not FRAME.match(lines[i + 1]) else ""
        # A Windows path splits at both kinds of slash.
        found = f"{PureWindowsPath(frame['path']).name}:{frame['line']}: {code}"
    return found


def where(node: ir.Node) -> str:
    """One line for a message: the operator, its value, its module and the user's line, as far as they are known."""
    text = f"{node.op_type} -> {node.outputs[0].name if node.outputs else node.name}"
    if module := module_path(node):
        text += f" in {module}"
    if source := source_line(node):
        text += f" ({source})"
    return text


def copy_provenance(from_node: ir.Node, to_node: ir.Node) -> None:
    """Gives `to_node` the origin of the node it replaces; what it already says of its own stays."""
    for key, text in from_node.metadata_props.items():
        to_node.metadata_props.setdefault(key, text)


def compact_provenance(model: ir.Model, *, root: str = "") -> None:
    """Leaves `ingot.module` and `ingot.source` of what torch's exporter wrote on nodes, values, graphs and the model.

    The exporter repeats the whole call stack on every node: two kilobytes each. `root` is where the user's module
    sits in the one that was traced; module paths then begin inside it.
    """
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        for node in graph.all_nodes():
            props = node.metadata_props
            raw = (props.get(SCOPES, ""), props.get(STACK, ""))
            if any(raw):
                if raw not in known:
                    path = module_path(node)
                    path = "" if path == root else path.removeprefix(f"{root}.")
                    known[raw] = (path, source_line(node))
                props[MODULE], props[SOURCE] = known[raw]
            _drop_verbose(props)
            for value in node.outputs:
                _drop_verbose(value.metadata_props)
    for graph in model.graphs():
        _drop_verbose(graph.metadata_props)
        for value in [*graph.inputs, *graph.initializers.values()]:
            _drop_verbose(value.metadata_props)
    _drop_verbose(model.metadata_props)


def _drop_verbose(props: dict[str, str]) -> None:
    for key in [key for key in props if key.startswith(VERBOSE)]:
        del props[key]
