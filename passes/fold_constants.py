"""Computes at build time what depends on constants alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ingot.ir.dims import static_shape
from ingot.ir.rewrite import all_nodes, constant_array, constant_tensor, remove_node, replace_by_constant
from ingot.passes.contract import Notes, Pass

# Operators whose result is the same to the bit in every runtime: they move numbers, compare them, count with integers,
# or round once as IEEE 754 says. Not Exp, Pow and their kind; and Transpose is fold_weight_transpose's, which copies
# nothing.
# fmt: off
EXACT = frozenset([
    "Abs", "Add", "And", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mul",
    "Neg", "Not", "Or", "Range", "Reshape", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Trilu", "Unsqueeze", "Where", "Xor",
])
DTYPES = frozenset([
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FLOAT16", "FLOAT", "DOUBLE",
])
# Of these the result is no larger than the inputs, so that its size need not be known beforehand.
NEVER_LARGER = frozenset([
    "Abs", "Concat", "Flatten", "Identity", "Neg", "Not", "Reshape", "Shape", "Size", "Slice", "Split", "Sqrt",
    "Squeeze", "Unsqueeze",
])
# fmt: on

INPUT_BYTES = 16 << 20
GROWTH_BYTES = 1 << 16

Array = np.ndarray[Any, Any]


class FoldConstants(Pass):
    """f(constants) -> a constant; Constant -> an initializer

    Any shapes, by onnx's reference implementation. exact
    Declines graph outputs, operators that runtimes round differently, inputs above 16 MiB, a result that is more than
    64 KiB larger than the inputs or that would store a weight of that size twice, casts of numbers that the integer
    cannot hold, and integer division by zero.
    """

    def run(self, model: ir.Model, notes: Notes) -> bool:
        for node in all_nodes(model):
            if node.domain != "" or not node.outputs:
                continue
            if any(value.is_graph_output() for value in node.outputs):
                continue
            if node.op_type == "Constant":
                tensor = ir.convenience.get_const_tensor(node.outputs[0])
                results = None if tensor is None else [tensor]
            else:
                results = self._results(node, model.opset_imports, notes)
            if results is None:
                continue
            for value, tensor in zip(node.outputs, results, strict=True):
                replace_by_constant(value, tensor)
            remove_node(node)
            notes.rewrites += 1
        return notes.rewrites > 0

    def _results(self, node: ir.Node, imports: dict[str, int], notes: Notes) -> list[ir.TensorProtocol] | None:
        given = [value for value in node.inputs if value is not None]
        if not given or node.op_type == "Transpose":
            return None
        arrays = [constant_array(value, limit_bytes=INPUT_BYTES) for value in given]
        known = [array for array in arrays if array is not None]
        if len(known) < len(given):
            return None
        reason = _unfit(node, known) or _too_large(node, known)
        if reason is not None:
            notes.decline(node, reason)
            return None
        try:
            results = _compute(node, dict(zip((str(value.name) for value in given), known, strict=True)), imports)
        except (ArithmeticError, IndexError, TypeError, ValueError, RuntimeError) as error:
            # What the operator's definition cannot compute, the runtime reports in its own words.
            notes.decline(node, f"onnx's reference says {error}")
            return None
        for value, result in zip(node.outputs, results, strict=True):
            dtype = ir.DataType.from_numpy(result.dtype)
            if static_shape(value) not in (result.shape, None) or value.dtype not in (dtype, None):
                notes.decline(node, f"the reference gives {result.dtype}{result.shape}, the graph says otherwise")
                return None
        return [ir.tensor(result) for result in results]


def _unfit(node: ir.Node, arrays: list[Array]) -> str | None:
    if node.op_type not in EXACT:
        return "runtimes may round this operator differently"
    if any(ir.DataType.from_numpy(array.dtype).name not in DTYPES for array in arrays):
        return "numpy has no arithmetic for its dtype"
    if node.op_type == "Cast":
        dtype = ir.DataType(node.attributes["to"].as_int())
        if dtype.name not in DTYPES:
            return "numpy has no arithmetic for its dtype"
        if dtype.is_integer() and arrays[0].dtype.kind == "f" and not _within(arrays[0], np.iinfo(dtype.numpy())):
            return "the integer cannot hold its numbers"
    if node.op_type == "Div" and arrays[1].dtype.kind in "iu" and not np.all(arrays[1]):
        return "it divides by zero"
    return None


def _too_large(node: ir.Node, arrays: list[Array]) -> str | None:
    given_bytes = sum(array.nbytes for array in arrays)
    result_bytes = 0
    for value in node.outputs:
        shape = static_shape(value)
        if shape is not None and value.dtype is not None:
            result_bytes += math.prod(shape) * value.dtype.bitwidth // 8
        elif node.op_type in NEVER_LARGER:
            result_bytes = given_bytes
            break
        else:
            return "the size of its result is not known"
    if result_bytes > given_bytes + GROWTH_BYTES:
        return f"its result would add {result_bytes} bytes to the file"
    if result_bytes > GROWTH_BYTES:
        for given in node.inputs:
            if given is not None and any(constant_tensor(other) is None for other in _read_beside(given)):
                return f"{given.name} is also read as it is, and would be stored twice"
    return None


def _read_beside(value: ir.Value) -> Iterator[ir.Value]:
    """What the readers of a large constant read beside it; only constants, where all of them can be folded."""
    if constant_array(value, limit_bytes=GROWTH_BYTES) is None:
        for reader in value.consumers():
            yield from (other for other in reader.inputs if other is not None)


def _compute(node: ir.Node, inputs: dict[str, Array], imports: dict[str, int]) -> list[Array]:
    graph = onnx.GraphProto()
    graph.node.append(ir.to_proto(node))
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in node.outputs)
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in inputs)
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(graph, opsets={"": imports[""]}).run(None, inputs)
    # A result may be a view of its input, or a numpy scalar.
    return [np.array(result, order="C") for result in results]


def _within(array: Array, integer: np.iinfo[Any]) -> bool:
    # In float64, which holds every float16 and float32; NaN is within nothing.
    wide = array.astype(np.float64)
    return bool(np.all((wide > float(integer.min) - 1) & (wide < float(integer.max))))
