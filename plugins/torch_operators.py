"""The torch operators `torch.ops.ingot.*`, made from the declarations."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ingot.plugins.declaration import DOMAIN, Choice, Declaration, Given, Size
from ingot.plugins.declared import DECLARED
from ingot.plugins.skip_norm.reference import skip_norm

REFERENCES: Mapping[str, Callable[..., tuple[torch.Tensor, ...]]] = {"skip_norm": skip_norm}

_REFERENCE_ONLY = ("float64",)
"""Dtypes that a reference takes besides the declared ones: verification measures rounding against float64."""


_REGISTERING = threading.Lock()


def operators() -> Mapping[str, Any]:
    """The operator overloads by name, registered with torch the first time."""
    with _REGISTERING:
        return _registered()


@functools.cache
def _registered() -> Mapping[str, Any]:
    untyped: Any = torch.library
    library = untyped.Library(DOMAIN, "FRAGMENT")
    made = {}
    for name, declaration in DECLARED.items():
        library.define(schema(declaration))
        library.impl(name, _eager(declaration), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{DOMAIN}::{name}", _fake(declaration), lib=library)
        torch.library.register_autograd(f"{DOMAIN}::{name}", _no_gradient(name), lib=library)
        made[name] = getattr(getattr(torch.ops, DOMAIN), name).default
    _LIBRARIES.append(library)
    return made


_LIBRARIES: list[torch.library.Library] = []
"""An operator is gone when its library is."""


def schema(declaration: Declaration) -> str:
    """As torch.library writes it: "name(Tensor x, Tensor? bias=None, *, float epsilon=1e-06) -> (Tensor y)"."""
    inputs = [f"Tensor? {spec.name}=None" if spec.optional else f"Tensor {spec.name}" for spec in declaration.inputs]
    attributes = [
        f"str {attribute.name}='{attribute.default}'"
        if isinstance(attribute, Choice)
        else f"float {attribute.name}={attribute.default!r}"
        for attribute in declaration.attributes
    ]
    outputs = ", ".join(f"Tensor {spec.name}" for spec in declaration.outputs)
    return f"{declaration.name}({', '.join([*inputs, '*', *attributes])}) -> ({outputs})"


def _eager(declaration: Declaration) -> Callable[..., tuple[torch.Tensor, ...]]:
    reference = REFERENCES[declaration.name]

    def run(*inputs: torch.Tensor | None, **attributes: Any) -> tuple[torch.Tensor, ...]:
        _fit(declaration, inputs, attributes)
        return reference(*inputs, **declaration.check_attributes(attributes))

    return run


def _fake(declaration: Declaration) -> Callable[..., tuple[torch.Tensor, ...]]:
    def run(*inputs: torch.Tensor | None, **attributes: Any) -> tuple[torch.Tensor, ...]:
        sizes = _fit(declaration, inputs, attributes)
        first = inputs[0]
        assert first is not None
        return tuple(first.new_empty([sizes[letter] for letter in spec.dims]) for spec in declaration.outputs)

    return run


def _no_gradient(name: str) -> Callable[..., Any]:
    """Without it torch would warn, and give gradients that are not there as none."""

    def backward(context: Any, *gradients: Any) -> Any:
        raise NotImplementedError(f"{DOMAIN}.{name} is for inference and has no gradient")

    return backward


def _fit(declaration: Declaration, inputs: tuple[Any, ...], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of the dims, as torch has them: whole numbers or symbols."""
    declaration.check_attributes(attributes)
    given: dict[str, Given | None] = {}
    sizes: dict[str, Any] = {}
    for spec, tensor in zip(declaration.inputs, inputs, strict=False):
        if tensor is not None:
            dtype = str(tensor.dtype).removeprefix("torch.")
            given[spec.name] = Given(
                [_size(size) for size in tensor.shape], None if dtype in _REFERENCE_ONLY else dtype
            )
            for letter, size in zip(spec.dims, tensor.shape, strict=False):
                sizes.setdefault(letter, size)
    declaration.fit(given)
    return sizes


def _size(size: Any) -> Size:
    return size if isinstance(size, int) else str(size)
