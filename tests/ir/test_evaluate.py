"""Every operator that is computed at build time gives ONNX Runtime's own bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ingot.ir.evaluate import MOVED, OPERATORS, NotComputed, evaluate

Array = np.ndarray[Any, Any]
ROUNDS = 10
DTYPES = sorted(MOVED)


@dataclass
class Drawn:
    """One call of an operator."""

    operator: str
    inputs: list[Array]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


class Draws:
    """Random operands: small shapes, zero sizes among them, and numbers at the ends of their dtype."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def int(self, low: int, high: int) -> int:
        return int(self.generator.integers(low, high + 1))

    def shape(self, rank: int | None = None, low: int = 0) -> tuple[int, ...]:
        return tuple(self.int(low, 4) for _ in range(self.int(0, 4) if rank is None else rank))

    def numbers(self, shape: tuple[int, ...], dtype: str) -> Array:
        kind = np.dtype(dtype)
        if kind == np.bool_:
            return self.generator.integers(0, 2, shape).astype(bool)
        if kind.kind in "iu":
            info = np.iinfo(kind)
            drawn = self.generator.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
            small = self.generator.integers(0 if kind.kind == "u" else -9, 9, shape).astype(kind)
            return np.where(self.generator.random(shape) < 0.7, small, drawn).astype(kind)
        drawn = self.generator.standard_normal(shape) * 10.0 ** self.generator.integers(-4, 4, shape)
        special = self.generator.choice([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 0.5, -1.5], shape)
        return np.asarray(np.where(self.generator.random(shape) < 0.8, drawn, special)).astype(kind)

    def array(self, dtype: str, rank: int | None = None, low: int = 0) -> Array:
        return self.numbers(self.shape(rank, low), dtype)

    def broadcast(self, dtype: str, count: int) -> list[Array]:
        full = self.shape(low=1)
        return [
            self.numbers(tuple(1 if self.int(0, 3) == 0 else size for size in full[self.int(0, len(full)) :]), dtype)
            for _ in range(count)
        ]

    def axis(self, rank: int) -> int:
        return self.int(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        chosen = [axis for axis in range(rank) if self.int(0, 1)] or [0]
        return [axis - rank if self.int(0, 1) else axis for axis in chosen]


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def unary(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, [draws.array(dtype)])


def binary(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, draws.broadcast(dtype, 2))


def logical(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, draws.broadcast("bool", 1 if operator == "Not" else 2))


def many(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, draws.broadcast(dtype, draws.int(1, 3)))


def remainder(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, draws.broadcast(dtype, 2), {"fmod": draws.int(0, 1)})


def cast(draws: Draws, operator: str, dtype: str) -> Drawn:
    target = ir.DataType.from_numpy(np.dtype(draws.generator.choice(DTYPES)))
    return Drawn(operator, [draws.array(dtype)], {"to": int(target)})


def concat(draws: Draws, operator: str, dtype: str) -> Drawn:
    shape = list(draws.shape(draws.int(1, 3)))
    axis = draws.axis(len(shape))
    arrays = []
    for _ in range(draws.int(1, 3)):
        shape[axis] = draws.int(0, 3)
        arrays.append(draws.numbers(tuple(shape), dtype))
    return Drawn(operator, arrays, {"axis": axis})


def filled(draws: Draws, operator: str, dtype: str) -> Drawn:
    return Drawn(operator, [whole(*draws.shape())], {"value": ir.tensor(draws.numbers((1,), dtype))})


def expand(draws: Draws, operator: str, dtype: str) -> Drawn:
    array, shape = draws.broadcast(dtype, 2)
    return Drawn(operator, [array, whole(*shape.shape)])


def flatten(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype)
    return Drawn(operator, [array], {"axis": draws.int(-array.ndim, array.ndim)})


def gather(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(1, 3), low=1)
    axis = draws.axis(array.ndim)
    size = array.shape[axis]
    return Drawn(operator, [array, draws.generator.integers(-size, size, draws.shape())], {"axis": axis})


def gather_elements(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(1, 3), low=1)
    axis = draws.axis(array.ndim)
    size, shape = array.shape[axis], tuple(draws.int(0, size) for size in array.shape)
    return Drawn(operator, [array, draws.generator.integers(-size, size, shape)], {"axis": axis})


def gather_nd(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(1, 3), low=1)
    depth = draws.int(1, array.ndim)
    shape = (*draws.shape(draws.int(0, 2)), depth)
    limits = np.array(array.shape[:depth])
    return Drawn(operator, [array, draws.generator.integers(-limits, limits, shape)])


def ranged(draws: Draws, operator: str, dtype: str) -> Drawn:
    numbers = [draws.int(-9, 9), draws.int(-9, 9), draws.int(1, 4) * (-1 if draws.int(0, 1) else 1)]
    return Drawn(operator, [np.array(number).astype(dtype) for number in numbers])


def reduce(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, low=1)
    axes = draws.axes(array.ndim) if array.ndim and draws.int(0, 2) else []
    flags = {"keepdims": draws.int(0, 1), "noop_with_empty_axes": draws.int(0, 1)}
    return Drawn(operator, [array, whole(*axes)] if axes or draws.int(0, 1) else [array], flags)


def reshape(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype)
    target = [
        size for axis in range(array.ndim) for size in ([array.shape[axis]], [1, array.shape[axis]])[draws.int(0, 1)]
    ]
    if target and draws.int(0, 1):
        target[draws.int(0, len(target) - 1)] = -1
    return Drawn(operator, [array, whole(*target)], {"allowzero": draws.int(0, 1)})


def sizes(draws: Draws, operator: str, dtype: str) -> Drawn:
    limits = {"start": draws.int(-5, 5), "end": draws.int(-5, 5)} if operator == "Shape" and draws.int(0, 1) else {}
    return Drawn(operator, [draws.array(dtype)], limits)


def sliced(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(1, 4))
    axes = draws.axes(array.ndim)
    ends = [draws.int(-6, 6) if draws.int(0, 4) else np.iinfo(np.int64).max for _ in axes]
    steps = [draws.int(1, 3) * (-1 if draws.int(0, 2) == 0 else 1) for _ in axes]
    return Drawn(operator, [array, whole(*(draws.int(-6, 6) for _ in axes)), whole(*ends), whole(*axes), whole(*steps)])


def split(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(1, 3), low=1)
    axis = draws.axis(array.ndim)
    size = array.shape[axis]
    if draws.int(0, 1):
        first = draws.int(0, size)
        return Drawn(operator, [array, whole(first, size - first)], {"axis": axis}, 2)
    count = draws.generator.choice([n for n in range(1, size + 1) if -(-size // n) * (n - 1) < size])
    return Drawn(operator, [array], {"axis": axis, "num_outputs": int(count)}, int(count))


def squeeze(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.numbers(tuple(draws.int(1, 2) for _ in range(draws.int(0, 4))), dtype)
    ones = [axis for axis, size in enumerate(array.shape) if size == 1]
    chosen = [axis - array.ndim if draws.int(0, 1) else axis for axis in ones if draws.int(0, 1)]
    return Drawn(operator, [array, whole(*chosen)] if chosen else [array])


def tile(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype)
    return Drawn(operator, [array, whole(*draws.shape(array.ndim))])


def transpose(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype)
    perm = [int(axis) for axis in draws.generator.permutation(array.ndim)]
    return Drawn(operator, [array], {"perm": perm} if perm and draws.int(0, 1) else {})


def trilu(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype, draws.int(2, 3))
    diagonal = [np.array(draws.int(-3, 3))] if draws.int(0, 1) else []
    return Drawn(operator, [array, *diagonal], {"upper": draws.int(0, 1)})


def unsqueeze(draws: Draws, operator: str, dtype: str) -> Drawn:
    array = draws.array(dtype)
    return Drawn(operator, [array, whole(*draws.axes(array.ndim + 1)[:1])])


def where(draws: Draws, operator: str, dtype: str) -> Drawn:
    a, b = draws.broadcast(dtype, 2)
    return Drawn(operator, [draws.numbers(np.broadcast_shapes(a.shape, b.shape), "bool"), a, b])


DRAW: dict[str, Callable[[Draws, str, str], Drawn]] = {
    **dict.fromkeys(["Abs", "Identity", "Neg", "Sqrt"], unary),
    **dict.fromkeys(["Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Sub"], binary),
    **dict.fromkeys(["And", "Not", "Or", "Xor"], logical),
    **dict.fromkeys(["Max", "Min"], many),
    **dict.fromkeys(["ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"], reduce),
    **dict.fromkeys(["Shape", "Size"], sizes),
    "Cast": cast,
    "Concat": concat,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Mod": remainder,
    "Range": ranged,
    "Reshape": reshape,
    "Slice": sliced,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
    "Where": where,
}


@dataclass
class Call:
    """A drawn call as a node, and what was computed of it."""

    drawn: Drawn
    node: ir.Node
    results: list[Array]


def computed(drawn: Drawn, name: str) -> Call | None:
    inputs = [
        ir.Value(
            name=f"{name}_i{k}", type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape)
        )
        for k, array in enumerate(drawn.inputs)
    ]
    attributes = ir.convenience.convert_attributes(drawn.attributes)
    node = ir.Node("", drawn.operator, inputs, attributes, num_outputs=drawn.outputs)
    for k, value in enumerate(node.outputs):
        value.name = f"{name}_o{k}"
    try:
        return Call(drawn, node, evaluate(node, drawn.inputs, limit_bytes=1 << 20))
    except NotComputed:
        return None


def run(calls: list[Call]) -> list[tuple[Call, list[Array]]]:
    """What ONNX Runtime computes, left to itself; without those that it has no kernel for or refuses."""
    inputs = {
        value.name: array for call in calls for value, array in zip(call.node.inputs, call.drawn.inputs, strict=True)
    }
    model = onnx.ModelProto(ir_version=10, opset_import=[onnx.OperatorSetIdProto(version=23)])
    model.graph.name = "g"
    for call in calls:
        model.graph.node.append(ir.to_proto(call.node))
        model.graph.input.extend(ir.to_proto(value) for value in call.node.inputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in call.node.outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        results = iter(session.run(None, inputs))
    except REFUSED:
        if len(calls) == 1:
            return []
        return [found for call in calls for found in run([call])]
    return [(call, [next(results) for _ in call.results]) for call in calls]


REFUSED = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
)


def test_every_operator_is_drawn():
    assert set(DRAW) == set(OPERATORS)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_the_bits_are_onnx_runtimes(operator, seed):
    draws, compared = Draws(seed), 0
    dtypes = sorted(OPERATORS[operator][1])
    for dtype in dtypes * (1 if len(dtypes) > 2 else 5):
        drawn = [DRAW[operator](draws, operator, dtype) for _ in range(ROUNDS)]
        calls = [call for k, one in enumerate(drawn) if (call := computed(one, f"n{k}"))]
        for call, expected in run(calls) if calls else []:
            compared += 1
            for result, wanted in zip(call.results, expected, strict=True):
                assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape), call.drawn
                if result.dtype.kind == "f":
                    # What is not a number may carry other bits; a zero keeps its sign.
                    numbers = ~np.isnan(wanted)
                    assert np.array_equal(np.isnan(result), ~numbers), call.drawn
                    result, wanted = result[numbers], wanted[numbers]
                assert result.tobytes() == wanted.tobytes(), call.drawn
    assert compared >= 5


def evaluated(operator: str, *inputs: Array | None, limit_bytes: int = 1000, **attributes: Any) -> list[Array]:
    drawn = Drawn(operator, [array for array in inputs if array is not None], attributes)
    node = ir.Node(
        "", operator, [ir.val(f"i{k}") for k in range(len(inputs))], ir.convenience.convert_attributes(attributes)
    )
    assert drawn.inputs
    return evaluate(node, inputs, limit_bytes=limit_bytes)


HUGE = whole(1 << 30, 1 << 30)
ONE = np.float32(1).reshape(1)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("Exp", [ONE], {}, "round this operator differently"),
        ("Add", [ONE.astype(np.float16)] * 2, {}, "may not agree on it for float16"),
        ("Expand", [ONE, HUGE], {}, "its result would have"),
        ("ConstantOfShape", [HUGE], {}, "its result would have"),
        ("Tile", [ONE, whole(1 << 40)], {}, "its result would have"),
        ("Range", [np.array(n) for n in (0, 1 << 40, 1)], {}, "its result would have"),
        ("Range", [np.float32(n) for n in (0, 1, 0.1)], {}, "may not agree on it for float32"),
        ("Gather", [np.zeros((2, 100), np.float32), np.zeros(50, np.int64)], {}, "its result would have"),
        ("Add", [np.zeros((300, 1), np.float32), np.zeros((1, 300), np.float32)], {}, "its result would have"),
        ("Gather", [ONE, whole(1)], {}, "its inputs do not fit"),
        ("Reshape", [ONE, whole(2)], {}, "its inputs do not fit"),
        ("Split", [whole(1, 2, 3), whole(1, 1)], {}, "its pieces do not fit"),
        ("Div", [whole(1), whole(0)], {}, "divides by zero"),
        ("Mod", [whole(1), whole(0)], {}, "divides by zero"),
        ("Mod", [whole(1), whole(2)], {"fmod": 1}, "by way of float64"),
        ("Div", [whole(np.iinfo(np.int64).min), whole(-1)], {}, "does not fit"),
        ("Range", [np.array(n) for n in (0, 1, 0)], {}, "its inputs do not fit"),
        ("Max", [np.float32([0.0]), np.float32([-0.0])], {}, "sign of its zeros"),
        ("Min", [ONE, np.float32([np.nan])], {}, "not a number"),
        ("Cast", [np.float32([3e9])], {"to": ir.DataType.INT32}, "cannot hold"),
        ("Cast", [np.float32([np.nan])], {"to": ir.DataType.INT64}, "cannot hold"),
        ("Cast", [ONE], {"to": ir.DataType.BFLOAT16}, "may not agree on it for bfloat16"),
        ("Cast", [ONE], {"to": ir.DataType.STRING}, "may not agree on it for string"),
        ("Cast", [np.float64([1.00048828126])], {"to": ir.DataType.FLOAT16}, "round its numbers twice"),
        ("GatherND", [ONE.reshape(1, 1), whole(0).reshape(1, 1)], {"batch_dims": 1}, "batch dims"),
        ("Add", [ONE, ONE], {"broadcast": 1, "axis": 0}, "too old"),
    ],
)
def test_declines(operator, inputs, attributes, reason):
    with pytest.raises(NotComputed, match=reason):
        evaluated(operator, *inputs, **attributes)


def test_renaming_axes_copies_nothing():
    array = np.zeros((2, 3))
    for operator, operand in (("Reshape", whole(3, 2)), ("Unsqueeze", whole(0)), ("Flatten", None), ("Identity", None)):
        (result,) = evaluated(operator, array, *([] if operand is None else [operand]))
        assert np.shares_memory(result, array), operator


def test_older_operator_sets_bring_operands_as_attributes():
    array = np.arange(6.0).reshape(1, 6)
    assert evaluated("Squeeze", array, axes=[0])[0].shape == (6,)
    assert evaluated("Unsqueeze", array, axes=[0])[0].shape == (1, 1, 6)
    assert evaluated("Slice", array, axes=[1], starts=[1], ends=[-1])[0].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert evaluated("Reshape", array, shape=[2, -1])[0].shape == (2, 3)
