"""What TensorRT's layers of arithmetic compute: elementwise, unary, activations, products, sums, softmax, norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ingot.backends.tensorrt.network.values import (
    Compute,
    EvaluationError,
    NotEvaluatedError,
    Values,
    given,
    integers,
    mask_axes,
    needed,
    optional_weights,
    torch_dtype,
    wide,
)

_BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "POW": torch.pow,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}

_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}

_ACTIVATIONS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "RELU": lambda x, a, b: torch.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: torch.where(x >= 0, x, a * x),
    "ELU": lambda x, a, b: torch.where(x >= 0, x, a * torch.expm1(x)),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * a * torch.expm1(x)),
    "SOFTSIGN": lambda x, a, b: x / (1 + x.abs()),
    "SOFTPLUS": lambda x, a, b: a * torch.logaddexp(b * x, torch.zeros_like(x)),
    "CLIP": lambda x, a, b: torch.minimum(x, torch.tensor(b)).maximum(torch.tensor(a)),
    "HARD_SIGMOID": lambda x, a, b: (a * x + b).clamp(0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
    "GELU_ERF": lambda x, a, b: F.gelu(x),
    "GELU_TANH": lambda x, a, b: F.gelu(x, approximate="tanh"),
}


def elementwise(layer: Any) -> Compute:
    name = layer.op.name

    def run(values: Values) -> list[torch.Tensor]:
        a, b = needed(values, 0), needed(values, 1)
        if name in ("DIV", "FLOOR_DIV"):
            return [_divided(a, b, name)]
        if name == "POW" and not a.is_floating_point():
            return [torch.pow(a.double(), b.double()).to(a.dtype)]
        return [_BINARY[name](a, b)]

    return run


def _divided(a: torch.Tensor, b: torch.Tensor, name: str) -> torch.Tensor:
    if a.is_floating_point():
        return torch.div(a, b) if name == "DIV" else torch.floor(torch.div(a, b))
    if bool((b == 0).any()):
        raise EvaluationError("an integer is divided by zero")
    return torch.div(a, b, rounding_mode="trunc" if name == "DIV" else "floor")


def unary(layer: Any) -> Compute:
    function = _UNARY[layer.op.name]
    return lambda values: [function(needed(values, 0))]


def activation(layer: Any) -> Compute:
    function, alpha, beta = _ACTIVATIONS[layer.type.name], float(layer.alpha), float(layer.beta)

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        return [function(wide(x), alpha, beta).to(x.dtype)]

    return run


def parametric_relu(layer: Any) -> Compute:
    def run(values: Values) -> list[torch.Tensor]:
        x, slope = needed(values, 0), needed(values, 1)
        return [torch.where(x >= 0, x, x * slope)]

    return run


def scale(layer: Any) -> Compute:
    axis, mode = int(layer.channel_axis), layer.mode.name
    names = ("scale", "shift", "power")
    weights = [optional_weights(getattr(layer, name)) for name in names]

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        shape = {"UNIFORM": [1] * x.ndim, "ELEMENTWISE": [1, *x.shape[1:]]}.get(mode)
        shape = shape or [size if at == axis else 1 for at, size in enumerate(x.shape)]
        factor, shift, power = (None if w is None else wide(w).reshape(shape) for w in weights)
        y = wide(x)
        y = y if factor is None else y * factor
        y = y if shift is None else y + shift
        return [(y if power is None else y**power).to(x.dtype)]

    return run


def softmax(layer: Any) -> Compute:
    (axis,) = mask_axes(layer.axes)

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        return [torch.softmax(wide(x), axis).to(x.dtype)]

    return run


def ragged_softmax(layer: Any) -> Compute:
    def run(values: Values) -> list[torch.Tensor]:
        x, bounds = needed(values, 0), needed(values, 1)
        inside = torch.arange(x.shape[-1]) < bounds
        scores = wide(x).masked_fill(~inside, -math.inf)
        return [torch.softmax(scores, -1).masked_fill(~inside, 0).to(x.dtype)]

    return run


def matrix_multiply(layer: Any) -> Compute:
    left, right = layer.op0.name, layer.op1.name

    def run(values: Values) -> list[torch.Tensor]:
        a, b = needed(values, 0), needed(values, 1)
        x, y = wide(a), wide(b)
        x = x.unsqueeze(-2) if left == "VECTOR" else x.mT if left == "TRANSPOSE" else x
        y = y.unsqueeze(-1) if right == "VECTOR" else y.mT if right == "TRANSPOSE" else y
        product = torch.matmul(x, y)
        if right == "VECTOR":
            product = product.squeeze(-1)
        if left == "VECTOR":
            product = product.squeeze(-1 if right == "VECTOR" else -2)
        return [product.to(a.dtype)]

    return run


def einsum(layer: Any) -> Compute:
    equation = str(layer.equation)

    def run(values: Values) -> list[torch.Tensor]:
        operands = [needed(values, index) for index in range(len(values))]
        return [torch.einsum(equation, *map(wide, operands)).to(operands[0].dtype)]

    return run


def reduce(layer: Any) -> Compute:
    name, axes, keep = layer.op.name, mask_axes(layer.axes), bool(layer.keep_dims)

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        y = wide(x)
        if name == "SUM":
            y = y.sum(axes, keepdim=keep)
        elif name == "AVG":
            if x.is_floating_point():
                y = y.mean(axes, keepdim=keep)
            else:
                count = math.prod(x.shape[axis] for axis in axes)
                y = torch.div(y.sum(axes, keepdim=keep), max(count, 1), rounding_mode="trunc")
        else:
            for axis in sorted(axes, reverse=True):
                y = _reduced(y, name, axis)
            y = y if not keep else y.reshape([1 if at in axes else size for at, size in enumerate(x.shape)])
        return [y.to(x.dtype)]

    return run


def _reduced(x: torch.Tensor, name: str, axis: int) -> torch.Tensor:
    if name == "PROD":
        return x.prod(axis)
    if x.shape[axis] == 0:
        limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        empty = -math.inf if x.is_floating_point() else limits.min
        other = math.inf if x.is_floating_point() else limits.max
        shape = [size for at, size in enumerate(x.shape) if at != axis]
        return torch.full(shape, empty if name == "MAX" else other, dtype=x.dtype)
    if name not in ("MAX", "MIN"):
        raise NotEvaluatedError(f"a reduction by {name} is not evaluated on the CPU")
    return torch.amax(x, axis) if name == "MAX" else torch.amin(x, axis)


def top_k(layer: Any) -> Compute:
    """Among equals the lower index comes first, which TensorRT does not promise."""
    (axis,) = mask_axes(layer.axes)
    largest, indices = layer.op.name == "MAX", torch_dtype(layer.indices_type)
    fixed = None if layer.num_inputs > 1 and layer.get_input(1) is not None else int(layer.k)

    def run(values: Values) -> list[torch.Tensor]:
        x, count = needed(values, 0), given(values, 1)
        k = fixed if fixed is not None else integers(needed([count], 0))[0]
        order = torch.sort(x, dim=axis, descending=largest, stable=True)
        return [order.values.narrow(axis, 0, k), order.indices.narrow(axis, 0, k).to(indices)]

    return run


def cumulative(layer: Any) -> Compute:
    exclusive, backward = bool(layer.exclusive), bool(layer.reverse)

    def run(values: Values) -> list[torch.Tensor]:
        x, axis = needed(values, 0), integers(needed(values, 1))[0]
        y = wide(x).flip(axis) if backward else wide(x)
        total = y.cumsum(axis, dtype=y.dtype)
        if exclusive:
            total = torch.cat([torch.zeros_like(y.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)], axis)
        return [(total.flip(axis) if backward else total).to(x.dtype)]

    return run


def normalization(layer: Any) -> Compute:
    axes, groups, epsilon = mask_axes(layer.axes), int(layer.num_groups), float(layer.epsilon)

    def run(values: Values) -> list[torch.Tensor]:
        x, factor, shift = needed(values, 0), given(values, 1), given(values, 2)
        y = wide(x)
        if groups == 1:
            normal = _normal(y, axes, epsilon)
        else:
            split = y.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
            inside = [2, *(axis + 1 for axis in axes if axis > 1)]
            normal = _normal(split, inside, epsilon).reshape(x.shape)
        for operand, apply in ((factor, torch.mul), (shift, torch.add)):
            if operand is not None:
                if groups > 1 and operand.shape[1] == groups:
                    operand = operand.repeat_interleave(x.shape[1] // groups, 1)
                normal = apply(normal, wide(operand))
        return [normal.to(x.dtype)]

    return run


def _normal(x: torch.Tensor, axes: list[int], epsilon: float) -> torch.Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def lrn(layer: Any) -> Compute:
    window, alpha, beta, k = int(layer.window_size), float(layer.alpha), float(layer.beta), float(layer.k)

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        y = wide(x)
        squares = F.pad(y.square().movedim(1, -1), (window // 2, window // 2)).unfold(-1, window, 1).sum(-1)
        return [(y / (k + alpha / window * squares.movedim(-1, 1)) ** beta).to(x.dtype)]

    return run
