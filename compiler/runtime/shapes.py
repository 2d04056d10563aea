"""Whether the shapes of one call fit what an engine declares: ranks, fixed sizes, bounds, and dims that agree."""

from __future__ import annotations

from typing import NamedTuple

from ingot.errors import FormatError, InputError
from ingot.signature import Dim, Linear, Signature, Tensor, linear

Shape = tuple[int, ...]


class _Varying(NamedTuple):
    form: Linear
    dim: Dim


class ShapeCheck:
    """Called with the shape of every input in the signature's order; raises InputError for the first misfit.

    Building one raises FormatError where the signature names a
    dim that it does not declare, or has an axis that is not scale * dim + offset.
    """

    def __init__(self, signature: Signature) -> None:
        dims = {dim.name: dim for dim in signature.dims}
        self._tensors = signature.inputs
        self._axes = [tuple(_read(axis, tensor, dims) for axis in tensor.shape) for tensor in signature.inputs]

    def __call__(self, shapes: tuple[Shape, ...]) -> None:
        sizes: dict[str, int] = {}
        origins: dict[str, str] = {}
        for tensor, axes, shape in zip(self._tensors, self._axes, shapes, strict=True):
            if len(shape) != len(axes):
                raise _rank(tensor, shape)
            for number, (axis, size) in enumerate(zip(axes, shape, strict=True)):
                place = f"axis {number} of input '{tensor.name}'"
                if isinstance(axis, int):
                    if size != axis:
                        raise InputError(f"{place} is {size}, and must be {axis}", where=_where(tensor, shape))
                    continue
                value = axis.form.solve(size)
                low, high = axis.dim.min, axis.dim.max
                if value is None or value < low or (high is not None and value > high):
                    raise _out_of_bounds(tensor, shape, number, axis)
                if sizes.setdefault(axis.dim.name, value) != value:
                    raise _disagrees(place, axis, size, origins[axis.dim.name], _where(tensor, shape))
                origins.setdefault(axis.dim.name, f"{place} is {size}")


def _read(axis: int | str, tensor: Tensor, dims: dict[str, Dim]) -> int | _Varying:
    if isinstance(axis, int):
        return axis
    form = linear(axis)
    if form is None or form.scale == 0 or form.dim not in dims:
        raise FormatError(f"the header gives input '{tensor.name}' an axis '{axis:.60}', which follows from no dim")
    return _Varying(form, dims[form.dim])


def _rank(tensor: Tensor, shape: Shape) -> InputError:
    name = tensor.name.rpartition(".")[2]
    few = len(shape) == len(tensor.shape) - 1
    return InputError(
        f"input '{tensor.name}' has {len(shape)} axes, and must have {len(tensor.shape)}",
        where=_where(tensor, shape),
        fix=f"{name}[None] puts an axis of 1 in front" if few else None,
    )


def _out_of_bounds(tensor: Tensor, shape: Shape, number: int, axis: _Varying) -> InputError:
    form, dim, size = axis.form, axis.dim, shape[number]
    place, where = f"axis {number} of input '{tensor.name}' is {size}", _where(tensor, shape)
    if size == 0:
        return InputError(f"{place}: there is nothing to compute", where=where, fix=f"at least {form.size(dim.min)}")
    value = form.solve(size)
    if value is None:
        near = form.size(max(dim.min, (size - form.offset) // form.scale))
        return InputError(f"{place}, which is no {_expression(form)}", where=where, fix=f"{near}, for one")
    span = f"{form.size(dim.min)} or more" if dim.max is None else f"{form.size(dim.min)} to {form.size(dim.max)}"
    wider = dim._replace(min=min(dim.min, value), max=None if dim.max is None else max(dim.max, value))
    axes = [str(wider) if axis == dim.name else str(axis) for axis in tensor.shape]
    return InputError(
        f"{place}, and may be {span} ({_expression(form)}, {dim})",
        where=where,
        fix=f"{span}; wider bounds are asked for when compiling: --shape {tensor.name}={','.join(axes)}",
    )


def _disagrees(place: str, axis: _Varying, size: int, origin: str, where: str) -> InputError:
    what = f"{place} is {size}, but {origin}: they disagree on {axis.dim.name}"
    return InputError(what, where=where, fix=f"the same {axis.dim.name} in every input")


def _expression(form: Linear) -> str:
    scaled = form.dim if form.scale == 1 else f"{form.scale}*{form.dim}"
    return scaled + (f" {'+' if form.offset > 0 else '-'} {abs(form.offset)}" if form.offset else "")


def _where(tensor: Tensor, shape: Shape) -> str:
    return f"{tensor}, given {list(shape)}"
