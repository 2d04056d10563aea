"""What TensorRT's layers that move elements compute: shuffle, slice, gather, scatter, concatenation and their kin."""

from __future__ import annotations

from typing import Any

import torch

from ingot.backends.tensorrt.network.values import (
    Compute,
    EvaluationError,
    NotEvaluatedError,
    Values,
    given,
    integers,
    needed,
    torch_dtype,
    weights_tensor,
)


def constant(layer: Any) -> Compute:
    value = weights_tensor(layer.weights, tuple(layer.shape))
    return lambda values: [value]


def identity(layer: Any) -> Compute:
    return lambda values: [needed(values, 0)]


def shape(layer: Any) -> Compute:
    return lambda values: [torch.tensor(list(needed(values, 0).shape), dtype=torch.int64)]


def concatenation(layer: Any) -> Compute:
    axis = int(layer.axis)
    return lambda values: [torch.cat([needed(values, index) for index in range(len(values))], axis)]


def select(layer: Any) -> Compute:
    return lambda values: [torch.where(needed(values, 0), needed(values, 1), needed(values, 2))]


def assertion(layer: Any) -> Compute:
    message = str(layer.message)

    def run(values: Values) -> list[torch.Tensor]:
        if not bool(needed(values, 0).all()):
            raise EvaluationError(f"an assertion of the network fails: {message}")
        return []

    return run


def shuffle(layer: Any) -> Compute:
    first, second = tuple(layer.first_transpose), tuple(layer.second_transpose)
    dynamic = layer.num_inputs > 1 and layer.get_input(1) is not None
    fixed = None if dynamic or layer.reshape_dims is None else list(layer.reshape_dims)
    placeholder = bool(layer.zero_is_placeholder)

    def run(values: Values) -> list[torch.Tensor]:
        x, asked = needed(values, 0), given(values, 1)
        x = x.permute(first[: x.ndim])
        sizes = integers(asked) if asked is not None else fixed
        if sizes is not None:
            if placeholder:
                sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
            x = x.reshape(sizes)
        return [x.permute(second[: x.ndim])]

    return run


def squeeze(layer: Any) -> Compute:
    def run(values: Values) -> list[torch.Tensor]:
        x, axes = needed(values, 0), given(values, 1)
        chosen = [at for at, size in enumerate(x.shape) if size == 1] if axes is None else integers(axes)
        dropped = {axis % x.ndim for axis in chosen}
        if any(x.shape[axis] != 1 for axis in dropped):
            raise EvaluationError(f"the axes {sorted(dropped)} of {list(x.shape)} are not all 1")
        return [x.reshape([size for at, size in enumerate(x.shape) if at not in dropped])]

    return run


def unsqueeze(layer: Any) -> Compute:
    def run(values: Values) -> list[torch.Tensor]:
        x, axes = needed(values, 0), integers(needed(values, 1))
        rank = x.ndim + len(axes)
        added = {axis % rank for axis in axes}
        sizes = iter(x.shape)
        return [x.reshape([1 if at in added else next(sizes) for at in range(rank)])]

    return run


def slice_(layer: Any) -> Compute:
    def fixed(index: int, name: str) -> list[int] | None:
        dynamic = layer.num_inputs > index and layer.get_input(index) is not None
        dims = None if dynamic else getattr(layer, name)
        return None if dims is None else [int(size) for size in dims]

    start, size, stride, axes = (
        fixed(index, name) for index, name in ((1, "start"), (2, "shape"), (3, "stride"), (5, "axes"))
    )
    mode = layer.mode.name

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)

        def asked(index: int, own: list[int] | None) -> list[int] | None:
            value = given(values, index)
            return own if value is None else integers(value)

        starts, sizes, strides = asked(1, start), asked(2, size), asked(3, stride)
        chosen = asked(5, axes)
        chosen = list(range(x.ndim)) if not chosen else [axis % x.ndim for axis in chosen]
        if starts is None or sizes is None or strides is None:
            raise EvaluationError("a slice without a start, a size or a stride")
        outside = torch.zeros((1,) * x.ndim, dtype=torch.bool)
        for axis, first, count, step in zip(chosen, starts, sizes, strides, strict=True):
            at, beyond = _coordinates(first + step * torch.arange(count), x.shape[axis], mode)
            x = x.index_select(axis, at) if x.shape[axis] else x.new_zeros(_resized(x, axis, count))
            outside = outside | beyond.reshape([-1 if place == axis else 1 for place in range(x.ndim)])
        if mode == "FILL":
            filling = given(values, 4)
            x = torch.where(outside, torch.zeros((), dtype=x.dtype) if filling is None else filling, x)
        return [x]

    return run


def _resized(x: torch.Tensor, axis: int, count: int) -> list[int]:
    return [count if at == axis else size for at, size in enumerate(x.shape)]


def _coordinates(at: torch.Tensor, size: int, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions inside the axis, and which of those asked for lie outside of it."""
    beyond = (at < 0) | (at >= size)
    if mode == "STRICT_BOUNDS" and bool(beyond.any()):
        raise EvaluationError(f"a slice reads {at[beyond].tolist()} of an axis of {size}")
    if size == 0:
        return at, beyond
    if mode == "WRAP":
        return at % size, beyond
    if mode == "REFLECT" and size > 1:
        folded = at.abs() % (2 * (size - 1))
        return torch.where(folded >= size, 2 * (size - 1) - folded, folded), beyond
    return at.clamp(0, size - 1), beyond


def gather(layer: Any) -> Compute:
    """Positions beyond the axis give zero; negative ones count from the end, where the axis is of a fixed size."""
    mode, axis, batch = layer.mode.name, int(layer.axis), int(layer.num_elementwise_dims)
    static = [int(size) >= 0 for size in layer.get_input(0).shape]

    def run(values: Values) -> list[torch.Tensor]:
        x, at = needed(values, 0), needed(values, 1).long()
        if mode == "ND":
            axes = range(batch, batch + at.shape[-1])
            parts = [_inside(at[..., i], x.shape[a], static[a], "gather") for i, a in enumerate(axes)]
            lead = [
                torch.arange(x.shape[i]).reshape([-1 if j == i else 1 for j in range(at.ndim - 1)])
                for i in range(batch)
            ]
            y = x[(*lead, *(part for part, _ in parts))]
            beyond = torch.stack([outside.expand(at.shape[:-1]) for _, outside in parts]).any(0)
            return [y.masked_fill(beyond.reshape([*beyond.shape, *[1] * (y.ndim - beyond.ndim)]), 0)]
        place, beyond = _inside(at, x.shape[axis], static[axis], "gather")
        if mode == "ELEMENT":
            return [torch.gather(x, axis, place).masked_fill(beyond, 0)]
        if batch:
            rows = [_taken(one, place[b % len(place)], axis - 1) for b, one in enumerate(x)]
            return [torch.stack(rows)]
        y = _taken(x, place, axis)
        return [y.masked_fill(beyond.reshape([*beyond.shape, *[1] * (x.ndim - axis - 1)]), 0) if beyond.any() else y]

    return run


def _taken(x: torch.Tensor, at: torch.Tensor, axis: int) -> torch.Tensor:
    return x.index_select(axis, at.reshape(-1)).reshape([*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]])


def _inside(at: torch.Tensor, size: int, static: bool, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions inside an axis and which of them were not. Raises EvaluationError where TensorRT defines nothing."""
    if bool((at < 0).any()) and not static:
        raise EvaluationError(f"a {what} at negative positions of a dynamic axis, which TensorRT leaves undefined")
    at = torch.where(at < 0, at + size, at)
    return at.clamp(0, max(size - 1, 0)), (at < 0) | (at >= size)


def scatter(layer: Any) -> Compute:
    """Raises EvaluationError for what TensorRT leaves undefined: two writes to one element, positions outside."""
    mode, axis = layer.mode.name, int(layer.axis)

    def run(values: Values) -> list[torch.Tensor]:
        x, at, updates = needed(values, 0), needed(values, 1).long(), needed(values, 2)
        if bool((at < 0).any()):
            raise EvaluationError("a scatter to negative positions, which TensorRT leaves undefined")
        marks = torch.zeros(x.shape, dtype=torch.int32)
        y = x.clone()
        if mode == "ELEMENT":
            marks.scatter_add_(axis, at, torch.ones_like(at, dtype=torch.int32))
            y.scatter_(axis, at, updates)
        else:
            place = tuple(at[..., i] for i in range(at.shape[-1]))
            marks.index_put_(place, torch.ones(updates.shape, dtype=torch.int32), accumulate=True)
            y.index_put_(place, updates)
        if bool((marks > 1).any()):
            raise EvaluationError("a scatter that writes an element twice, which TensorRT leaves undefined")
        return [y]

    return run


def one_hot(layer: Any) -> Compute:
    axis = int(layer.axis)

    def run(values: Values) -> list[torch.Tensor]:
        at, pair, depth = needed(values, 0), needed(values, 1), integers(needed(values, 2))[0]
        place = axis % (at.ndim + 1)
        classes = torch.arange(depth).reshape([-1 if i == place else 1 for i in range(at.ndim + 1)])
        return [torch.where(at.unsqueeze(place) == classes, pair[1], pair[0])]

    return run


def non_zero(layer: Any) -> Compute:
    indices = torch_dtype(layer.indices_type)
    return lambda values: [torch.nonzero(needed(values, 0)).mT.to(indices)]


def reverse_sequence(layer: Any) -> Compute:
    batch_axis, axis = int(layer.batch_axis), int(layer.sequence_axis)

    def run(values: Values) -> list[torch.Tensor]:
        x, lengths = needed(values, 0).movedim((batch_axis, axis), (0, 1)), integers(needed(values, 1))
        rows = [torch.cat([row[:length].flip(0), row[length:]]) for row, length in zip(x, lengths, strict=True)]
        return [torch.stack(rows).movedim((0, 1), (batch_axis, axis))]

    return run


def fill(layer: Any) -> Compute:
    if layer.operation.name != "LINSPACE":
        raise NotEvaluatedError(f"a fill by {layer.operation.name} is random")
    dynamic = [layer.num_inputs > index and layer.get_input(index) is not None for index in range(3)]
    sizes = None if dynamic[0] else [int(size) for size in layer.shape]
    first = None if dynamic[1] else layer.alpha
    step = None if dynamic[2] else layer.beta
    dtype = torch_dtype(layer.to_type)

    def run(values: Values) -> list[torch.Tensor]:
        shape_of = integers(needed(values, 0)) if sizes is None else sizes
        start = torch.tensor(first) if first is not None else needed(values, 1)
        steps = (torch.tensor([step]) if step is not None else needed(values, 2)).reshape(-1)
        y = torch.zeros(shape_of, dtype=dtype) + start.reshape(())
        for axis, delta in enumerate(steps.expand(len(shape_of)) if len(shape_of) == 1 else steps):
            count = torch.arange(shape_of[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape_of))])
            y = y + count * delta
        return [y.to(dtype)]

    return run
