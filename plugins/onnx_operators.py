"""The ONNX side of the operations: schemas for the domain `ingot`, and function bodies for the calls of a model."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from ingot.errors import UnsupportedOperatorError
from ingot.ir.checks import subgraphs
from ingot.ir.provenance import where
from ingot.plugins.declaration import DOMAIN, Declaration, DoesNotFit, Given, Size
from ingot.plugins.declared import DECLARED
from ingot.plugins.skip_norm.body import body

BODIES: Mapping[str, Callable[[str], str]] = {"skip_norm": body}

_ELEMENTS = {"float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}


_REGISTERING = threading.Lock()


def register_schemas() -> None:
    """Lets onnx, and with it torch's exporter, know the operators. Once a process."""
    with _REGISTERING:
        _registered()


@functools.cache
def _registered() -> None:
    for declaration in DECLARED.values():
        onnx.defs.register_schema(schema(declaration))


def schema(declaration: Declaration) -> Any:
    defs = onnx.defs.OpSchema
    options = defs.FormalParameterOption
    return defs(
        declaration.name,
        DOMAIN,
        declaration.version,
        doc=declaration.doc,
        inputs=[
            defs.FormalParameter(spec.name, "T", param_option=options.Optional if spec.optional else options.Single)
            for spec in declaration.inputs
        ],
        outputs=[defs.FormalParameter(spec.name, "T") for spec in declaration.outputs],
        type_constraints=[("T", [_ELEMENTS[dtype] for dtype in declaration.dtypes], "one for all tensors")],
        attributes=[
            defs.Attribute(attribute.name, onnx.helper.make_attribute(attribute.name, attribute.default), attribute.doc)
            for attribute in declaration.attributes
        ],
    )


def attach_bodies(model: ir.Model) -> bool:
    """Gives every call of an operation its function body, so that any runtime can run the model; whether there was one.

    A body is of a variant: the call's NodeProto.overload names it. Raises UnsupportedOperatorError, with the user's
    line, for a call that does not fit the declaration.
    """
    found = False
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        found |= _attach(graph, model)
    if found:
        model.opset_imports[DOMAIN] = max(model.opset_imports.get(DOMAIN, 1), 1)
    return found


def _attach(graph: ir.Graph | ir.GraphView, model: ir.Model) -> bool:
    found = False
    for node in graph:
        declaration = declared(node)
        if declaration is not None:
            attributes, given = read_call(node, declaration)
            node.overload = declaration.variant(attributes, list(given))
            # A call gives as many inputs as the body takes.
            while node.inputs[-1] is None:
                node.resize_inputs(len(node.inputs) - 1)
            # A function may not count on defaults of a schema that the runtime does not have.
            for attribute in declaration.attributes:
                if attribute.name not in node.attributes:
                    node.attributes.add(ir.convenience.convert_attribute(attribute.name, attribute.default))
            identifier = node.op_identifier()
            if identifier not in model.functions:
                model.functions[identifier] = function(declaration, node.overload, model.opset_imports[""])
            found = True
        for inner in subgraphs(node):
            found |= _attach(inner, model)
    return found


def declared(node: ir.Node) -> Declaration | None:
    """The declaration of the operation that `node` calls."""
    return DECLARED.get(node.op_type) if node.domain == DOMAIN else None


def read_call(node: ir.Node, declaration: Declaration) -> tuple[dict[str, float | str], dict[str, Given]]:
    """The attributes and the inputs of a call. Raises UnsupportedOperatorError where they do not fit."""
    try:
        attributes = declaration.check_attributes({name: node.attributes[name].value for name in node.attributes})
        if len(node.inputs) > len(declaration.inputs):
            raise DoesNotFit(f"{declaration.name} has {len(declaration.inputs)} inputs, not {len(node.inputs)}")
        given = {
            spec.name: _given(value, len(spec.dims))
            for spec, value in zip(declaration.inputs, node.inputs, strict=False)
            if value is not None
        }
        declaration.fit(given)
    except DoesNotFit as error:
        raise UnsupportedOperatorError(
            f"this call of {DOMAIN}.{declaration.name} does not fit: {error}", where=where(node)
        ) from None
    return attributes, given


def _given(value: ir.Value, axes: int) -> Given:
    dtype = None if value.dtype is None else value.dtype.name.lower()
    names = {"float": "float32", "double": "float64"}
    shape: list[Size] = [None] * axes
    if value.shape is not None:
        shape = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return Given(shape, names.get(dtype, dtype) if dtype is not None else None)


def function(declaration: Declaration, variant: str, opset: int) -> ir.Function:
    """The body of one variant over operator set `opset` of ONNX."""
    given = next(names for name, _, names in declaration.variants() if name == variant)
    used = [spec.name for spec in declaration.inputs]
    while used[-1] in declaration.optional_inputs() and used[-1] not in given:
        used.pop()
    outputs = [spec.name for spec in declaration.outputs]
    attributes = ", ".join(attribute.name for attribute in declaration.attributes)
    text = f"""<opset_import: ["": {opset}], domain: "{DOMAIN}">
        {declaration.name} <{attributes}> ({", ".join(used)}) => ({", ".join(outputs)}) {{
        {BODIES[declaration.name](variant)} }}"""
    proto = onnx.parser.parse_function(text)
    proto.overload, proto.doc_string = variant, declaration.doc
    return ir.serde.deserialize_function(proto)
