"""What `--shape` says, applied to a model with example inputs: names and bounds of axes, and examples that fit them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ingot.errors import UsageError
from ingot.frontend.dims import AUTO, example_sizes, plan
from ingot.frontend.shapes import Bounds, Shapes
from ingot.frontend.source import Source
from ingot.frontend.structure import Call, take_apart
from ingot.signature import Dim, Linear, Tree, children, linear

Declared = list[dict[int, int | Linear]]
"""For each tensor its declared axes: a fixed size, or a dim."""


def declare_shapes(source: Source, shapes: Shapes) -> None:
    """Makes `source.dynamic_shapes` what `shapes` says, and gives examples that were drawn fitting sizes.

    Where the source knew the dims already, a new name or size holds for every input that shares the dim, and bounds
    not given are those of the model. Where it did not, axes of inputs that `shapes` does not name are left to tracing
    if they are as long as a named one. Raises UsageError where `shapes` does not fit the inputs, or asks for more than
    the model has.
    """
    call = take_apart(source.module.forward, source.args, source.kwargs)
    declared = _by_tensor(call, shapes)
    bounds = dict(shapes.bounds)
    free: list[set[int]] = [set() for _ in call.tensors]
    if source.dynamic_shapes is None:
        _leave_to_tracing(call, declared, free)
    else:
        _keep_known(call, source.dynamic_shapes, declared, free, bounds)
    if source.drawn:
        sizes = _drawn_sizes(call, declared, bounds)
        masks = {name for name, domain in source.domains.items() if domain.role == "mask"}
        # Drawn examples are keywords, one tensor each.
        source.kwargs = {
            name: _resized(tensor, axes, sizes, mask=name in masks)
            for name, tensor, axes in zip(call.names, call.tensors, declared, strict=True)
        }
    else:
        _check_sizes(call, declared, bounds)
    dims = {name: torch.export.Dim(name, min=given.low or 1, max=given.high) for name, given in bounds.items()}
    specs = [
        {axis: _torch_dim(said, dims) for axis, said in axes.items() if isinstance(said, Linear)}
        | dict.fromkeys(auto, AUTO)
        for axes, auto in zip(declared, free, strict=True)
    ]
    source.dynamic_shapes = {name: _nested(tree, specs) for name, tree in call.trees.items()}


def _by_tensor(call: Call, shapes: Shapes) -> Declared:
    declared: Declared = [{} for _ in call.tensors]
    for name, axes in shapes.axes.items():
        if name not in call.names:
            close = difflib.get_close_matches(name, call.names, 1)
            raise UsageError(
                f"--shape: the model has no input '{name}'",
                fix=f"did you mean {close[0]}?" if close else f"its inputs: {', '.join(call.names)}",
            )
        index = call.names.index(name)
        shape = call.tensors[index].shape
        if len(axes) != len(shape):
            raise UsageError(
                f"--shape: '{name}' has {len(shape)} axes, and {len(axes)} are given",
                fix=f"--shape {name}={','.join(map(str, shape))}, with a name where the size may vary",
            )
        declared[index] = dict(enumerate(axes))
    return declared


def _leave_to_tracing(call: Call, declared: Declared, free: list[set[int]]) -> None:
    lengths = {
        tensor.shape[axis]
        for tensor, axes in zip(call.tensors, declared, strict=True)
        for axis, said in axes.items()
        if isinstance(said, Linear)
    }
    for index, tensor in enumerate(call.tensors):
        if not declared[index]:
            free[index] = {axis for axis, size in enumerate(tensor.shape) if size in lengths}


def _keep_known(call: Call, known: Any, declared: Declared, free: list[set[int]], bounds: dict[str, Bounds]) -> None:
    """Fills in the inputs that were not named, and the bounds that were not given, from what the source knew."""
    planned = plan(call, known)
    replaced: dict[str, int | Linear] = {}
    for axes, before in zip(declared, planned.axes, strict=True):
        for axis, said in axes.items():
            old = before[axis].name if axis in before else None
            if old is None or linear(old) != Linear(old):
                continue
            replaced.setdefault(old, said)
            has = planned.bounds.get(old)
            if has is not None:
                _check_against_model(said, bounds, has)
                if isinstance(said, Linear) and said == Linear(said.dim):
                    given = bounds[said.dim]
                    bounds[said.dim] = Bounds(given.low or has.min, given.high or has.max)
    for index, before in enumerate(planned.axes):
        if declared[index]:
            continue
        for axis, wanted in before.items():
            old_axis = linear(wanted.name) if wanted.name else None
            if old_axis is None:
                free[index].add(axis)
                continue
            declared[index][axis] = said = _composed(old_axis, replaced.get(old_axis.dim, Linear(old_axis.dim)))
            if isinstance(said, Linear) and said.dim not in bounds:
                has = planned.bounds.get(said.dim, Dim(said.dim))
                bounds[said.dim] = Bounds(has.min, has.max)


def _composed(outer: Linear, inner: int | Linear) -> int | Linear:
    if isinstance(inner, int):
        return outer.size(inner)
    return Linear(inner.dim, outer.scale * inner.scale, outer.scale * inner.offset + outer.offset)


def _check_against_model(said: int | Linear, bounds: Mapping[str, Bounds], has: Dim) -> None:
    given = Bounds(said, said) if isinstance(said, int) else bounds[said.dim]
    if isinstance(said, Linear) and said != Linear(said.dim):
        return
    for size in (given.low, given.high):
        if size is not None and (size < has.min or (has.max is not None and size > has.max)):
            name = said.dim if isinstance(said, Linear) else has.name
            raise UsageError(
                f"--shape: '{name}' is to be {size}, and the model takes {has.min} to {has.max or 'any'}",
                fix=f"{name}:{max(has.min, min(given.low or has.min, has.max or has.min))}..{has.max or ''}",
            )


def _drawn_sizes(call: Call, declared: Declared, bounds: Mapping[str, Bounds]) -> dict[str, int]:
    """A size for each dim within its bounds, as near as can be to what the examples have; at least 2 where allowed."""
    sizes: dict[str, int] = {}
    for tensor, axes in zip(call.tensors, declared, strict=True):
        for axis, said in axes.items():
            if isinstance(said, Linear):
                low, high = bounds[said.dim].low or 1, bounds[said.dim].high
                near = max(2, low, said.solve(tensor.shape[axis]) or 2)
                sizes.setdefault(said.dim, near if high is None else min(near, high))
    return sizes


def _resized(
    tensor: torch.Tensor, axes: Mapping[int, int | Linear], sizes: Mapping[str, int], *, mask: bool
) -> torch.Tensor:
    before = tensor.shape
    for axis, said in axes.items():
        size = said if isinstance(said, int) else said.size(sizes[said.dim])
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    # Padding stays last when a row is repeated to become longer.
    return tensor.sort(dim=-1, descending=True).values if mask and tensor.shape != before else tensor


def _check_sizes(call: Call, declared: Declared, bounds: Mapping[str, Bounds]) -> None:
    for name, tensor, axes in zip(call.names, call.tensors, declared, strict=True):
        for axis, said in axes.items():
            if isinstance(said, int) and said != tensor.shape[axis]:
                raise UsageError(
                    f"--shape: axis {axis} of '{name}' is {tensor.shape[axis]} in the example inputs, "
                    f"and {said} is declared",
                    fix="example inputs of a size that is declared, or another declaration",
                )
    varying = [{axis: said for axis, said in axes.items() if isinstance(said, Linear)} for axes in declared]
    dims = {name: Dim(name, given.low or 1, given.high) for name, given in bounds.items()}
    example_sizes(call, varying, dims, option="--shape: ")


def _torch_dim(said: Linear, dims: Mapping[str, Any]) -> Any:
    dim = dims[said.dim]
    if said.scale != 1:
        dim = said.scale * dim
    if said.offset:
        dim = dim + said.offset if said.offset > 0 else dim - -said.offset
    return dim


def _nested(tree: Tree, specs: Sequence[dict[int, Any]]) -> Any:
    if "tensor" in tree:
        return specs[tree["tensor"]]
    branches = {key: _nested(child, specs) for key, child in children(tree)}
    return list(branches.values()) if "tuple" in tree or "list" in tree else branches or None
