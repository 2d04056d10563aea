"""Computes standard operators on constants, to the bit as the runtimes do.

Only operators that move numbers, compare them, count with integers or round once as IEEE 754 says have an entry: not
Exp, Pow and their kind, which every library rounds in its own way. A test holds each entry to ONNX Runtime's bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
# Inputs are as the node lists them, None where one is absent; each entry takes those that its operator has.
Inputs = Sequence[Any]
Operator = Callable[[ir.Node, Inputs], Sequence[Array]]

INTEGERS = frozenset(["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
INT64 = frozenset(["int64"])
COMPUTED = INTEGERS | {"float32", "float64"}
# ONNX Runtime computes float16 in float32, and may leave out the rounding between two operators. Moving, comparing and
# casting a float16 is the same everywhere.
MOVED = COMPUTED | {"float16", "bool"}


class NotComputed(Exception):
    """Why an operator is left to the runtime: the only argument is the reason."""


def evaluate(node: ir.Node, inputs: Inputs, *, limit_bytes: int) -> list[Array]:
    """The node's outputs, row-major; what an operator only renames is a view of its input.

    Raises NotComputed for an operator without an entry, numbers of which runtimes make different things, inputs that
    the operator does not take, and results of more than `limit_bytes`, which are not computed to find out.
    """
    if node.domain != "" or node.op_type not in OPERATORS:
        raise NotComputed("runtimes may round this operator differently")
    operator, dtypes = OPERATORS[node.op_type]
    given = [array for array in inputs if array is not None]
    for array in given:
        if array.dtype.name not in dtypes:
            raise NotComputed(f"runtimes may not agree on it for {array.dtype.name}")
    try:
        if (result_bytes := _result_bytes(node, given)) > limit_bytes:
            raise NotComputed(f"its result would have {result_bytes} bytes")
        with np.errstate(all="ignore"):
            results = operator(node, inputs)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        # What the operator's definition refuses, the runtime refuses in its own words.
        raise NotComputed(f"its inputs do not fit: {error}") from error
    return [np.asarray(result, order="C") for result in results]


def _result_bytes(node: ir.Node, arrays: Sequence[Array]) -> int:
    """At most this many, found without computing the result."""
    first, kind = arrays[0], node.op_type
    size, count = first.itemsize, sum(array.size for array in arrays)
    if kind == "Cast":
        size = 8
    elif kind == "ConstantOfShape":
        size, count = 8, math.prod(first.tolist())
    elif kind == "Expand":
        count = math.prod(np.broadcast_shapes(first.shape, tuple(arrays[1].tolist())))
    elif kind == "Gather":
        axis = node.attributes.get_int("axis", 0) % first.ndim
        count = arrays[1].size * math.prod(first.shape[:axis] + first.shape[axis + 1 :])
    elif kind == "GatherElements":
        count = arrays[1].size
    elif kind == "GatherND":
        count = arrays[1].size * math.prod(first.shape[arrays[1].shape[-1] :])
    elif kind == "Range":
        count = len(_range(arrays))
    elif kind == "Shape":
        size, count = 8, first.ndim
    elif kind == "Tile":
        count = first.size * math.prod(arrays[1].tolist())
    elif kind in ELEMENTWISE:
        size = max(array.itemsize for array in arrays)
        count = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    return size * count


def _elementwise(function: Callable[..., Array]) -> Operator:
    def operator(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        # Up to opset 6 broadcasting went by these.
        if "axis" in node.attributes or "broadcast" in node.attributes:
            raise NotComputed("its operator set is too old")
        return [function(*inputs)]

    return operator


def _chosen(function: Callable[..., Array]) -> Operator:
    """Max or Min. Which of 0.0 and -0.0 is larger, and what NaN does, differs."""

    def operator(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        result = functools.reduce(function, inputs)
        if result.dtype.kind == "f" and not np.all(result):
            raise NotComputed("runtimes may not agree on the sign of its zeros")
        if any(np.isnan(array).any() for array in inputs):
            raise NotComputed("runtimes may not agree on what is not a number")
        return [result]

    return operator


def _divide(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    left, right = inputs
    if left.dtype.kind == "f":
        return [np.divide(left, right)]
    _refuse_division(left, right)
    # Toward zero, where numpy's own rounds down.
    quotient, rest = np.divmod(left, right)
    return [quotient + ((rest != 0) & ((left < 0) != (right < 0))).astype(quotient.dtype)]


def _remainder(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    left, right = inputs
    if node.attributes.get_int("fmod", 0) != 0:
        raise NotComputed("ONNX Runtime goes by way of float64")
    _refuse_division(left, right)
    return [np.mod(left, right)]


def _refuse_division(left: Array, right: Array) -> None:
    if not np.all(right):
        raise NotComputed("it divides by zero")
    if left.dtype.kind == "i" and np.any((left == np.iinfo(left.dtype).min) & (right == -1)):
        raise NotComputed("its result does not fit")


def _cast(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    (array,) = inputs
    dtype = ir.DataType(node.attributes["to"].as_int())
    if dtype == ir.DataType.STRING or dtype.numpy().name not in MOVED:
        raise NotComputed(f"runtimes may not agree on it for {dtype.name.lower()}")
    target = dtype.numpy()
    if target.kind in "iu" and array.dtype.kind == "f":
        # In float64, which holds every float16 and float32; NaN is within nothing.
        wide, bounds = array.astype(np.float64), np.iinfo(target)
        if not np.all((wide > float(bounds.min) - 1) & (wide < float(bounds.max))):
            raise NotComputed("the integer cannot hold its numbers")
    result = array.astype(target)
    if target == np.float16 and not np.array_equal(result, array.astype(np.float32).astype(target), equal_nan=True):
        raise NotComputed("runtimes may round its numbers twice")
    return [result]


def _concat(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    return [np.concatenate(inputs, axis=node.attributes["axis"].as_int())]


def _constant_of_shape(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    fill: Array = np.zeros(1, np.float32)
    if "value" in node.attributes:
        fill = node.attributes["value"].as_tensor().numpy()
    if fill.dtype.name not in MOVED:
        raise NotComputed(f"runtimes may not agree on it for {fill.dtype.name}")
    return [np.broadcast_to(fill.reshape(()), tuple(inputs[0].tolist()))]


def _expand(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, shape = inputs
    return [np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape.tolist())))]


def _flatten(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    shape = inputs[0].shape
    axis = node.attributes.get_int("axis", 1)
    return [inputs[0].reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))]


def _gather(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, indices = inputs
    return [np.take(array, indices, axis=node.attributes.get_int("axis", 0))]


def _gather_elements(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, indices = inputs
    axis = node.attributes.get_int("axis", 0) % array.ndim
    # Along the other axes the indices may stop early.
    part = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))
    return [np.take_along_axis(array[part], indices, axis)]


def _gather_nd(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, indices = inputs
    if node.attributes.get_int("batch_dims", 0):
        raise NotComputed("it has batch dims")
    return [array[tuple(np.moveaxis(indices, -1, 0))]]


def _where(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    result = np.asarray(np.where(*inputs))
    if result.dtype.kind == "f" and np.any(np.signbit(result) & (result == 0)):
        raise NotComputed("ONNX Runtime gives 0.0 for -0.0")
    return [result]


def _range(inputs: Inputs) -> range:
    start, limit, delta = (int(array.item()) for array in inputs)
    return range(start, limit, delta)


def _ranged(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    # Integers only: runtimes add the step up in floating point, numpy multiplies it.
    return [np.array(_range(inputs), dtype=inputs[0].dtype)]


def _reduce(function: Callable[..., Array]) -> Operator:
    def operator(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
        array, axes = inputs[0], _ints(node, "axes", inputs, 1)
        how = {"axis": tuple(axes) if axes else None, "keepdims": node.attributes.get_int("keepdims", 1) != 0}
        if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
            return [array]
        # ONNX Runtime goes by way of float64, in which integers are whole up to here.
        if np.any(function(np.maximum(np.abs(array.astype(np.float64)), 1.0), **how) >= 2.0**53):
            raise NotComputed("its result may not be exact")
        return [function(array, **how)]

    return operator


def _reshape(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, target = inputs[0], _ints(node, "shape", inputs, 1)
    assert target is not None
    if not node.attributes.get_int("allowzero", 0):
        target = [array.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return [array.reshape(target)]


def _slice(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array = inputs[0]
    starts, ends = _ints(node, "starts", inputs, 1), _ints(node, "ends", inputs, 2)
    assert starts is not None
    assert ends is not None
    axes = _ints(node, "axes", inputs, 3)
    steps = _ints(node, "steps", inputs, 4) or [1] * len(starts)
    part = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        part[axis] = _clamped(start, end, step, array.shape[axis])
    return [array[tuple(part)]]


def _clamped(start: int, end: int, step: int, size: int) -> slice:
    """Backwards, ONNX begins at 0 when `start` lies before it; Python finds nothing there."""
    if step > 0 or size == 0:
        return slice(start, end, step)
    if end in (np.iinfo(np.int32).max, np.iinfo(np.int64).max):
        raise NotComputed("ONNX Runtime goes to the front where its end says infinity")
    start, end = (place + size if place < 0 else place for place in (start, end))
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step)


def _split(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    array, sizes = inputs[0], _ints(node, "split", inputs, 1)
    axis, count = node.attributes.get_int("axis", 0), len(node.outputs)
    if sizes is None:
        # The last may be shorter.
        size = -(-array.shape[axis] // count)
        sizes = [size] * (count - 1) + [array.shape[axis] - size * (count - 1)]
    if sum(sizes) != array.shape[axis] or min(sizes) < 0 or len(sizes) != count:
        raise NotComputed("its pieces do not fit")
    return np.split(array, np.cumsum(sizes)[:-1], axis)


def _squeeze(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    axes = _ints(node, "axes", inputs, 1)
    return [np.squeeze(inputs[0], None if axes is None else tuple(axes))]


def _transpose(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    return [np.transpose(inputs[0], perm)]


def _trilu(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    diagonal = int(inputs[1].item()) if len(inputs) > 1 and inputs[1] is not None else 0
    return [(np.triu if node.attributes.get_int("upper", 1) else np.tril)(inputs[0], diagonal)]


def _unsqueeze(node: ir.Node, inputs: Inputs) -> Sequence[Array]:
    axes = _ints(node, "axes", inputs, 1)
    assert axes is not None
    return [np.expand_dims(inputs[0], tuple(axes))]


def _ints(node: ir.Node, name: str, inputs: Inputs, index: int) -> list[int] | None:
    """An operand that is an input in newer operator sets and was an attribute in older ones."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    operand = inputs[index] if index < len(inputs) else None
    return None if operand is None else [int(number) for number in operand]


# fmt: off
OPERATORS: dict[str, tuple[Operator, frozenset[str]]] = {
    "Abs": (_elementwise(np.abs), MOVED - {"bool"}),
    "Add": (_elementwise(np.add), COMPUTED),
    "And": (_elementwise(np.logical_and), MOVED),
    "Cast": (_cast, MOVED),
    "Concat": (_concat, MOVED),
    "ConstantOfShape": (_constant_of_shape, MOVED),
    "Div": (_divide, COMPUTED),
    "Equal": (_elementwise(np.equal), MOVED),
    "Expand": (_expand, MOVED),
    "Flatten": (_flatten, MOVED),
    "Gather": (_gather, MOVED),
    "GatherElements": (_gather_elements, MOVED),
    "GatherND": (_gather_nd, MOVED),
    "Greater": (_elementwise(np.greater), MOVED),
    "GreaterOrEqual": (_elementwise(np.greater_equal), MOVED),
    "Identity": (_elementwise(np.asarray), MOVED),
    "Less": (_elementwise(np.less), MOVED),
    "LessOrEqual": (_elementwise(np.less_equal), MOVED),
    "Max": (_chosen(np.maximum), COMPUTED),
    "Min": (_chosen(np.minimum), COMPUTED),
    "Mod": (_remainder, INTEGERS),
    "Mul": (_elementwise(np.multiply), COMPUTED),
    "Neg": (_elementwise(np.negative), MOVED - {"bool"}),
    "Not": (_elementwise(np.logical_not), MOVED),
    "Or": (_elementwise(np.logical_or), MOVED),
    "Range": (_ranged, INTEGERS),
    "ReduceMax": (_reduce(np.max), INT64),
    "ReduceMin": (_reduce(np.min), INT64),
    "ReduceProd": (_reduce(np.prod), INT64),
    "ReduceSum": (_reduce(np.sum), INT64),
    "Reshape": (_reshape, MOVED),
    "Shape": (lambda node, inputs: [_sliced_shape(node, inputs[0])], MOVED),
    "Size": (lambda node, inputs: [np.array(inputs[0].size, np.int64)], MOVED),
    "Slice": (_slice, MOVED),
    "Split": (_split, MOVED),
    "Sqrt": (_elementwise(np.sqrt), frozenset(["float32", "float64"])),
    "Squeeze": (_squeeze, MOVED),
    "Sub": (_elementwise(np.subtract), COMPUTED),
    "Tile": (lambda node, inputs: [np.tile(inputs[0], tuple(inputs[1].tolist()))], MOVED),
    "Transpose": (_transpose, MOVED),
    "Trilu": (_trilu, MOVED),
    "Unsqueeze": (_unsqueeze, MOVED),
    "Where": (_where, MOVED),
    "Xor": (_elementwise(np.logical_xor), MOVED),
}
ELEMENTWISE = frozenset([
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or",
    "Sub", "Where", "Xor",
])
# fmt: on


def _sliced_shape(node: ir.Node, array: Array) -> Array:
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    return np.array(array.shape[start:end], np.int64)
