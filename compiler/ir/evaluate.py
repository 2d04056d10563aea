"""Computes standard operators on constants, to the bit as every runtime does.

Only operators that move numbers, compare them, count with integers or round once as IEEE 754 says have an entry: not
Exp, Pow and their kind, which each library rounds in its own way. A test holds every entry to ONNX Runtime's bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
WIDE_FLOATS = ("float32", "float64")
# ONNX Runtime computes float16 in float32 and may leave out the rounding between two operators: what numpy would round
# after each is not what it gives. Moving and casting them is.
COMPUTED = frozenset(["bool", *INTEGERS, *WIDE_FLOATS])
MOVED = COMPUTED | {"float16"}


class NotComputed(Exception):
    """Why an operator was left to the runtime: the only argument is the reason."""


def evaluate(node: ir.Node, inputs: Sequence[Array | None], *, limit_bytes: int) -> list[Array]:
    """The node's outputs, contiguous and of their own memory. `inputs` are as the node lists them, None where absent.

    Raises NotComputed for an operator without an entry, numbers whose result runtimes do not agree on, inputs that the
    operator does not take, and results of more than `limit_bytes`, which are not computed to find out.
    """
    if node.domain != "" or node.op_type not in OPERATORS:
        raise NotComputed("runtimes may round this operator differently")
    given = [array for array in inputs if array is not None]
    operator, dtypes = OPERATORS[node.op_type]
    for array in given:
        if array.dtype.name not in dtypes:
            raise NotComputed(f"runtimes may not agree on it for {array.dtype.name}")
    try:
        result_bytes = _result_bytes(node, given)
        if result_bytes > limit_bytes:
            raise NotComputed(f"its result would have {result_bytes} bytes")
        with np.errstate(all="ignore"):
            results = operator(node, list(inputs))
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        # What the operator's definition refuses, the runtime refuses in its own words.
        raise NotComputed(f"its inputs do not fit: {error}") from error
    return [np.array(result, order="C") for result in results]


def _result_bytes(node: ir.Node, arrays: Arrays) -> int:
    """Exactly, for operators whose result may be larger than their inputs; at least, for the others."""
    first, kind = arrays[0], node.op_type
    size, count = first.itemsize, sum(array.size for array in arrays)
    if kind == "Expand":
        count = math.prod(np.broadcast_shapes(first.shape, tuple(arrays[1].tolist())))
    elif kind == "ConstantOfShape":
        size, count = 8, math.prod(first.tolist())
    elif kind == "Tile":
        count = first.size * math.prod(arrays[1].tolist())
    elif kind == "Range":
        count = _range_length(*(array.item() for array in arrays))
    elif kind == "Gather":
        axis = node.attributes.get_int("axis", 0)
        count = arrays[1].size * math.prod(first.shape[:axis]) * math.prod(np.delete(first.shape, axis).tolist())
    elif kind == "GatherND":
        count = arrays[1].size * first.size
    elif kind in ELEMENTWISE:
        size = max(array.itemsize for array in arrays)
        count = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
    elif kind == "Cast":
        size = 8
    return size * count
