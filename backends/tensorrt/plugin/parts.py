"""What the plugins of a graph bring into an engine file: their kernels as members, their entries in the header; and how
the graph names them to TensorRT's parser."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from ingot.backends.tensorrt.plugin.fields import INPUTS, Fields
from ingot.backends.tensorrt.plugin.kernels import Kernel
from ingot.errors import BuildError, UnsupportedOperatorError
from ingot.file.write import Part
from ingot.ir.provenance import where
from ingot.ir.rewrite import all_nodes
from ingot.plugins.cubins import ARCHS, compile_cubins
from ingot.plugins.declaration import DOMAIN, Declaration
from ingot.plugins.onnx_operators import declared, read_call

_NO_DIGEST = "0" * 64


@dataclass(slots=True)
class PluginParts:
    """`parts` are members of the engine file, `entries` go into the header as the target's option "plugins". Both are
    empty for a graph without plugins."""

    parts: list[Part] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)


def plugin_parts(model: ir.Model, archs: Sequence[str]) -> PluginParts:
    """Compiles the kernels that the calls in `model` need, one for each architecture; none named: for all there are.

    Raises UnsupportedOperatorError with the user's line for a call whose dtype or fixed dims are not known, or that
    does not fit, and BuildError where Triton is missing or fails.
    """
    needed: dict[str, dict[str, Fields]] = {}
    for node, declaration in _calls(model):
        fields = _fields(node, declaration)
        needed.setdefault(declaration.name, {})[fields.kernel()] = fields
    made = PluginParts()
    for name, uses in sorted(needed.items()):
        kernels: list[Kernel] = []
        for key, fields in sorted(uses.items()):
            found = compile_cubins(
                fields.declaration,
                archs or ARCHS,
                dtype=fields.dtype,
                sizes=fields.sizes,
                attributes=fields.attributes,
                given=fields.optional,
            )
            for arch, cubin in found.items():
                member = f"plugins/{name}/{arch}/{key}.cubin"
                sha256 = hashlib.sha256(cubin.data).hexdigest()
                made.parts.append(Part.of(member, cubin.data))
                kernels.append(Kernel(key, arch, member, sha256, cubin.symbol, cubin.warps, cubin.shared_bytes))
        version = next(iter(uses.values())).declaration.version
        entry = {"name": name, "version": version, "kernels": [kernel.to_json() for kernel in kernels]}
        made.entries.append(entry)
    return made


def name_for_parser(model: ir.Model) -> bool:
    """Writes on every plugin call which inputs it has, by name, and which version it is of; whether there was one.

    For the graph that TensorRT's parser reads alone: it passes attributes to the plugin and counts the inputs, so those
    that are absent are left out.
    """
    found = False
    for node, declaration in list(_calls(model)):
        pairs = list(zip(declaration.inputs, node.inputs, strict=False))
        names = [spec.name for spec, value in pairs if value is not None]
        values = [value for _, value in pairs if value is not None]
        node.resize_inputs(len(values))
        for index, value in enumerate(values):
            node.replace_input_with(index, value)
        for name, text in (
            (INPUTS, ",".join(names)),
            ("plugin_version", str(declaration.version)),
            ("plugin_namespace", DOMAIN),
        ):
            node.attributes[name] = ir.AttrString(name, text)
        node.overload = ""
        found = True
    return found


def _calls(model: ir.Model) -> Iterator[tuple[ir.Node, Declaration]]:
    for node in all_nodes(model):
        declaration = declared(node)
        if declaration is not None:
            yield node, declaration


def _fields(node: ir.Node, declaration: Declaration) -> Fields:
    attributes, given = read_call(node, declaration)
    dims = declaration.fit(given)
    dtypes = [tensor.dtype for tensor in given.values() if tensor.dtype is not None]
    if not dtypes:
        raise BuildError(f"the dtype of this call of {declaration.name} is not known", where=where(node))
    sizes = {}
    for letter in declaration.fixed:
        size = dims[letter]
        if not isinstance(size, int):
            raise UnsupportedOperatorError(
                f"{letter} of this {declaration.name} is not known when the engine is built, and its kernel needs it",
                where=where(node),
                fix=f"give the last axis a fixed size, or at most {declaration.fixed[letter]}",
            )
        sizes[letter] = size
    optional = tuple(name for name in declaration.optional_inputs() if name in given)
    return Fields(declaration, dtypes[0], sizes, optional, attributes, _NO_DIGEST)
