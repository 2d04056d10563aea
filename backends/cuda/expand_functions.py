"""Puts ONNX's own definition in the place of an operator that has no CUDA kernel."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from ingot.backends.contract import No
from ingot.backends.cuda.kernels import kernel_for
from ingot.backends.cuda.lower_operator_set import means_the_same
from ingot.ir.provenance import copy_provenance
from ingot.ir.rewrite import all_nodes
from ingot.passes.contract import Notes, Pass


class ExpandFunctions(Pass):
    """GroupNormalization(x, scale, bias) -> Reshape, ReduceMean, Sub, …: the operators that ONNX defines it by

    Any shapes   rounds as those operators do
    ONNX Runtime would leave the node to the processor where that has a kernel. Declines an operator that ONNX defines
    by no others, one whose dtypes are not known, and a definition whose operators mean something else by now.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        version = model.opset_imports.get("", 1)
        replaced: list[ir.Node] = []
        for node in all_nodes(model):
            if node.domain == "" and isinstance(kernel_for(node, version), No):
                body = _definition(node, version)
                if body is None:
                    notes.decline(node, "ONNX defines it by no other operators that are the same today")
                    continue
                # Bodies may depend on the node, so each has one of its own.
                node.overload = f"definition_{len(replaced)}"
                body.overload, body.domain = node.overload, ""
                for inner in body.graph:
                    copy_provenance(node, inner)
                model.functions[body.identifier()] = body
                replaced.append(node)
        notes.rewrites = len(replaced)
        if replaced:
            InlinePass(criteria=lambda function: function.domain == "")(model)
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        return bool(replaced)


def _definition(node: ir.Node, version: int) -> ir.Function | None:
    """The newest that ONNX has for operator set `version`; None where one of its nodes means something else by now."""
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")
    written = schema.context_dependent_function_opset_versions or schema.function_opset_versions
    known = [number for number in written if number <= version]
    if not known:
        return None
    if schema.has_context_dependent_function:
        if any(value is not None and not isinstance(value.type, ir.TensorType) for value in node.inputs):
            return None
        types = [_type(value) for value in node.inputs]
        plain = ir.to_proto(node).SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(max(known), plain, types)
    else:
        text = schema.get_function_with_opset_version(max(known))
    proto = onnx.FunctionProto()
    proto.ParseFromString(text)
    body = ir.serde.deserialize_function(proto)
    if not all(means_the_same(inner, version, max(known)) for inner in body.graph):
        return None
    body.opset_imports[""] = version
    return body


def _type(value: ir.Value | None) -> bytes:
    kind = onnx.TypeProto()
    if value is not None and value.type is not None:
        kind.tensor_type.elem_type = value.type.dtype.value
    data: bytes = kind.SerializeToString()
    return data
