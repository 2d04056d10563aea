"""How torch's exporter writes a call of `torch.ops.ingot.*`: as one node of the domain `ingot`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from onnxscript.values import Opset

from ingot.plugins.declaration import DOMAIN, Declaration
from ingot.plugins.declared import DECLARED, OPSET
from ingot.plugins.onnx_operators import attach_bodies, register_schemas
from ingot.plugins.torch_operators import operators

__all__ = ["attach_bodies", "plugin_translations"]


@functools.cache
def plugin_translations() -> Mapping[Any, Callable[..., Any]]:
    """{torch operator overload: function over onnxscript's opset}, for torch.onnx's custom_translation_table. Nodes get
    their function bodies from `attach_bodies`, once the model is whole."""
    register_schemas()
    domain = Opset(DOMAIN, OPSET)
    return {overload: _translation(DECLARED[name], domain) for name, overload in operators().items()}


def _translation(declaration: Declaration, domain: Any) -> Callable[..., Any]:
    kind = inspect.Parameter
    parameters = [
        kind(spec.name, kind.POSITIONAL_OR_KEYWORD, default=None if spec.optional else kind.empty)
        for spec in declaration.inputs
    ]
    parameters += [
        kind(attribute.name, kind.KEYWORD_ONLY, default=attribute.default) for attribute in declaration.attributes
    ]
    signature = inspect.Signature(parameters)

    def translate(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        inputs = [bound.arguments[spec.name] for spec in declaration.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attributes = {attribute.name: bound.arguments[attribute.name] for attribute in declaration.attributes}
        return getattr(domain, declaration.name)(*inputs, **attributes)

    translate.__signature__ = signature  # type: ignore[attr-defined]
    translate.__name__ = declaration.name
    return translate
