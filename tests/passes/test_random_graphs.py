"""Random graphs, full of what exporters leave behind, compute the same after all passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from ingot.passes.contract import run_passes
from ingot.pipeline import passes

EXAMPLES = 120

Axes = list[int | str]


@dataclass
class Writer:
    """Writes a graph in ONNX's text, operator by operator; every value is float, and its shape is kept beside it."""

    data: st.DataObject
    steps: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    values: dict[str, Axes] = field(default_factory=dict)
    count: int = 0

    def one_of(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def step(self, text: str) -> str:
        name = self.name()
        self.steps.append(f"{name} = {text}")
        return name

    def value(self, text: str, shape: Axes) -> str:
        name = self.step(text)
        self.values[name] = shape
        return name

    def ints(self, numbers: list[int]) -> str:
        """A constant, in one of the ways that exporters write it."""
        text = ", ".join(map(str, numbers))
        if self.one_of(True, False):
            return self.step(f"Constant <value_ints = [{text}]> ()")
        name = self.name()
        self.constants.append(f"int64[{len(numbers)}] {name} = {{{text}}}")
        return name

    def any(self) -> tuple[str, Axes]:
        """Mostly the last value, so that chains come about."""
        names = list(self.values)
        name = names[-1] if self.number(0, 2) else self.data.draw(st.sampled_from(names))
        return name, self.values[name]

    def size(self, name: str, axis: int) -> str:
        """One dim of a value, as int64[1], computed at run time."""
        shape = self.step(f"Shape({name})") if self.one_of(True, False) else self.step(f"Shape <start = 0> ({name})")
        taken = self.step(f"Gather({shape}, {self.ints([axis])})")
        if self.one_of(True, False):
            taken = self.step(f"Cast <to = 7> ({taken})")
        if self.one_of(True, False):
            zero = self.ints([0])
            taken = self.step(f"Unsqueeze({self.step(f'Squeeze({taken}, {zero})')}, {zero})")
        return taken

    def target(self, name: str, shape: Axes, wanted: Axes) -> str:
        """A shape to reshape or expand `name` to, as exporters compute it."""
        parts = []
        for size in wanted:
            if isinstance(size, int):
                parts.append(self.ints([size]))
            else:
                parts.append(self.size(name, shape.index(size)))
        return self.step(f"Concat <axis = 0> ({', '.join(parts)})") if parts else self.ints([])


def unary(w: Writer) -> None:
    name, shape = w.any()
    operator = w.one_of("Relu", "Neg", "Identity", "Dropout", "Cast <to = 1>", "Exp")
    w.value(f"{operator} ({name})", shape)


def cast_like(w: Writer) -> None:
    (name, shape), (like, _) = w.any(), w.any()
    w.value(f"CastLike({name}, {like})", shape)


def neutral(w: Writer) -> None:
    name, shape = w.any()
    number = w.name()
    w.constants.append(f"float {number} = {{{w.one_of(0, 1, 2)}}}")
    operator = w.one_of("Add", "Mul", "Sub", "Div")
    left, right = (number, name) if w.one_of(True, False) and operator != "Div" else (name, number)
    if operator == "Div":
        right = w.step(f"Max({right}, {w.step('Constant <value_float = 1.0> ()')})")
    w.value(f"{operator}({left}, {right})", shape)


def add(w: Writer) -> None:
    name, shape = w.any()
    others = [other for other, axes in sorted(w.values.items()) if axes == shape]
    w.value(f"{w.one_of('Add', 'Mul', 'Max')}({name}, {w.data.draw(st.sampled_from(others))})", shape)


def transpose(w: Writer) -> None:
    name, shape = w.any()
    first = w.data.draw(st.permutations(range(len(shape))))
    back = [first.index(axis) for axis in range(len(first))]
    for perm in (first, w.one_of(back, w.data.draw(st.permutations(first))))[: w.number(1, 2)]:
        shape = [shape[axis] for axis in perm]
        name = w.value(f"Transpose <perm = {list(perm)}> ({name})", shape)


def reshape(w: Writer) -> None:
    name, shape = w.any()
    kind = w.one_of("same", "split", "join", "flat")
    wanted = list(shape)
    last = shape[-1] if shape else None
    if kind == "split" and isinstance(last, int) and last % 2 == 0:
        wanted = [*shape[:-1], 2, last // 2]
    elif kind == "join" and len(shape) > 1 and isinstance(last, int) and isinstance(shape[-2], int):
        wanted = [*shape[:-2], shape[-2] * last]
    elif kind == "flat" and sum(isinstance(size, str) for size in shape) == 1:
        fixed = int(np.prod([size for size in shape if isinstance(size, int)]))
        dims = [size for size in shape if isinstance(size, str)]
        w.value(f"Reshape({name}, {w.ints([-1, fixed])})", [*dims, fixed])
        return
    w.value(f"Reshape({name}, {w.target(name, shape, wanted)})", wanted)


def squeeze(w: Writer) -> None:
    name, shape = w.any()
    axis = w.number(0, len(shape))
    longer = w.value(f"Unsqueeze({name}, {w.ints([axis])})", [*shape[:axis], 1, *shape[axis:]])
    if w.one_of(True, False):
        w.value(f"Squeeze({longer}, {w.ints([axis])})", shape)


def expand(w: Writer) -> None:
    name, shape = w.any()
    wanted = [w.number(1, 2) if size == 1 else size for size in shape]
    w.value(f"Expand({name}, {w.target(name, shape, wanted)})", wanted)


def cut(w: Writer) -> None:
    name, shape = w.any()
    axis = w.number(0, len(shape) - 1) if shape else 0
    if not shape:
        return
    end = np.iinfo(np.int64).max if w.one_of(True, False) or shape[axis] == 1 else 1
    size = shape[axis] if end > 1 else 1
    text = f"Slice({name}, {w.ints([0])}, {w.ints([end])}, {w.ints([axis])}, {w.ints([1])})"
    w.value(text, [*shape[:axis], size, *shape[axis + 1 :]])


def split(w: Writer) -> None:
    name, shape = w.any()
    if not shape or not isinstance(shape[-1], int) or shape[-1] < 2:
        return
    axis, size = len(shape) - 1, shape[-1]
    sequence = w.step(f"SplitToSequence <axis = {axis}> ({name}, {w.ints([1, size - 1])})")
    index = w.step(f"Constant <value_int = {w.number(0, 1)}> ()")
    first = w.step(f"SequenceAt({sequence}, {index})")
    w.values[w.step(f"Concat <axis = {axis}> ({first}, {name})")] = [*shape[:-1], "any"]


def linear(w: Writer) -> None:
    name, shape = w.any()
    if len(shape) < 2 or not isinstance(shape[-1], int):
        return
    weight, bias = w.name(), w.name()
    # From 1 KiB on a weight is never copied.
    rows = w.one_of(3, 260)
    numbers = [((i * 7) % 5 - 2) / 2 for i in range(rows * shape[-1])]
    w.constants.append(f"float[{rows}, {shape[-1]}] {weight} = {{{', '.join(map(str, numbers))}}}")
    w.constants.append(f"float[1] {bias} = {{{w.number(0, 1)}}}")
    turned = w.step(f"Transpose <perm = [1, 0]> ({weight})")
    product = w.value(f"MatMul({name}, {turned})", [*shape[:-1], rows])
    w.value(f"Add({product}, {bias})", [*shape[:-1], rows])


def again(w: Writer) -> None:
    """A step that is there already, once more."""
    named = [(name, step) for step in w.steps if (name := step.partition(" = ")[0]) in w.values]
    if named:
        name, step = w.data.draw(st.sampled_from(named))
        w.value(step.partition(" = ")[2], w.values[name])


STEPS: list[Callable[[Writer], None]] = [
    unary, cast_like, neutral, add, transpose, transpose, reshape, reshape, squeeze, expand, cut, split, linear, again
]  # fmt: skip


def write(data: st.DataObject) -> str:
    w = Writer(data, values={"x": ["B", "S", 4], "z": ["B", 6]})
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=14)):
        # What was concatenated has a size of its own that nothing else is written for.
        usable = {name: axes for name, axes in w.values.items() if "any" not in axes}
        hidden, w.values = {name: axes for name, axes in w.values.items() if "any" in axes}, usable
        step(w)
        w.values |= hidden
    made = [name for name in w.values if name not in ("x", "z")]
    if not made:
        made = [w.value("Identity(x)", w.values["x"])]
    shown = list(dict.fromkeys([made[-1], *data.draw(st.lists(st.sampled_from(made), max_size=2))]))
    outputs = ", ".join(f"float{_written(w.values[name])} {name}" for name in shown)
    constants = f"<{', '.join(w.constants)}>" if w.constants else ""
    return f"g (float[B, S, 4] x, float[B, 6] z) => ({outputs}) {constants} {{ {'  '.join(w.steps)} }}"


def _written(shape: Axes) -> str:
    return f"[{', '.join(f'D{i}' if size == 'any' else str(size) for i, size in enumerate(shape))}]" if shape else ""


@hypothesis.seed(int(os.environ["INGOT_SEED"]))
@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(data=st.data())
def test_same_numbers(data, build, same_numbers):
    text = write(data)
    hypothesis.note(text)
    before, after = build(text, infer=False), build(text, infer=False)
    names = [value.name for value in [*after.graph.inputs, *after.graph.outputs]]
    run_passes(after, passes())
    assert [value.name for value in [*after.graph.inputs, *after.graph.outputs]] == names
    assert isinstance(after, ir.Model)
    same_numbers(before, after)
