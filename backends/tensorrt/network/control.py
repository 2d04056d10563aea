"""Evaluates steps on demand, with the loops and conditionals of TensorRT networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ingot.backends.tensorrt.network.values import Compute, EvaluationError, NotEvaluatedError, integers

_UNKNOWN = (NotImplementedError, TypeError, KeyError)
"""What torch, or a table of ours, says of a dtype or mode that it lacks."""
_DOES_NOT_FIT = (RuntimeError, IndexError, ValueError)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer. Tensors go by number; `scope` is the loop or conditional that a control layer belongs to.

    outputs   (number, dtype, dims) of each output, -1 for a dim that the network does not know
    variant   of a control layer: "LAST_VALUE", "CONCATENATE", "REVERSE", "COUNT", "WHILE", or of an iterator "REVERSE"
    """

    name: str
    kind: str
    inputs: tuple[int | None, ...]
    outputs: tuple[tuple[int, torch.dtype, tuple[int, ...]], ...]
    compute: Compute | None = None
    scope: int = 0
    variant: str = ""
    axis: int = 0


@dataclass(slots=True)
class Frame:
    """Values known so far: of the whole network, or of one iteration of a loop inside `parent`.

    pending   how many layers have still to read a value, which is let go of after the last; empty: all are kept
    """

    values: dict[int, torch.Tensor]
    parent: Frame | None = None
    inside: frozenset[int] = frozenset()
    pending: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Loop:
    recurrences: list[Step] = field(default_factory=list)
    iterators: list[Step] = field(default_factory=list)
    limits: list[Step] = field(default_factory=list)
    outputs: list[Step] = field(default_factory=list)
    inside: frozenset[int] = frozenset()


class Program:
    """The steps of a network, evaluated as far as a wanted tensor needs them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._producer = {number: step for step in steps for number, _, _ in step.outputs}
        self._readers = Counter(number for step in steps for number in step.inputs if number is not None)
        self._conditions = {step.scope: step.inputs[0] for step in steps if step.kind == "CONDITION"}
        self._assertions = [step for step in steps if step.kind == "ASSERTION"]
        self._loops: dict[int, _Loop] = {}
        for step in steps:
            kinds = {"RECURRENCE": "recurrences", "ITERATOR": "iterators"}
            kinds |= {"TRIP_LIMIT": "limits", "LOOP_OUTPUT": "outputs"}
            if step.kind in kinds:
                getattr(self._loops.setdefault(step.scope, _Loop()), kinds[step.kind]).append(step)
        for loop in self._loops.values():
            loop.inside = _reached(steps, loop)

    def run(self, given: Mapping[int, torch.Tensor], wanted: Iterable[int]) -> dict[int, torch.Tensor]:
        kept = set(outputs := list(wanted))
        frame = Frame(dict(given), pending={at: count for at, count in self._readers.items() if at not in kept})
        for step in self._assertions:
            if not any(number in loop.inside for loop in self._loops.values() for number in step.inputs):
                self._execute(step, [None if at is None else self.value(at, frame) for at in step.inputs])
        return {number: self.value(number, frame) for number in outputs}

    def value(self, target: int, frame: Frame) -> torch.Tensor:
        home = _home(target, frame)
        stack = [target]
        while stack:
            number = stack[-1]
            if self._known(number, home):
                stack.pop()
                continue
            step = self._producer.get(number)
            if step is None:
                raise EvaluationError("the network reads a tensor that no layer produces")
            missing = [at for at in self._needs(step, home) if at is not None and not self._known(at, home)]
            if missing:
                stack += missing
            else:
                self._produce(step, home)
                stack.pop()
        return home.values[target]

    def _known(self, number: int, frame: Frame) -> bool:
        if number not in frame.values and frame.parent is not None and number not in frame.inside:
            frame.values[number] = self.value(number, frame.parent)
        return number in frame.values

    def _needs(self, step: Step, frame: Frame) -> Sequence[int | None]:
        if step.kind == "LOOP_OUTPUT":
            return ()
        if step.kind == "CONDITIONAL_OUTPUT":
            condition = self._conditions[step.scope]
            if condition is None or not self._known(condition, frame):
                return (condition,)
            return (step.inputs[0 if bool(frame.values[condition]) else 1],)
        return step.inputs

    def _produce(self, step: Step, frame: Frame) -> None:
        if step.kind == "LOOP_OUTPUT":
            self._loop(self._loops[step.scope], frame)
            return
        numbers = self._needs(step, frame)
        values = [None if at is None else frame.values[at] for at in numbers]
        if step.compute is None:
            results = [value for value in values if value is not None]
        else:
            results = self._execute(step, values)
        for (number, _, _), result in zip(step.outputs, results, strict=True):
            frame.values[number] = result
        for at in numbers:
            if at is not None and at in frame.pending:
                frame.pending[at] -= 1
                if frame.pending[at] == 0:
                    del frame.values[at]

    def _execute(self, step: Step, values: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        if step.compute is None:
            raise NotEvaluatedError(f"layer {step.name} ({step.kind}) stands outside of its loop or conditional")
        try:
            results = step.compute(values)
        except (NotEvaluatedError, EvaluationError) as error:
            raise type(error)(f"layer {step.name} ({step.kind}): {error}") from error
        except _UNKNOWN as error:
            text = f"layer {step.name} ({step.kind}) is not evaluated: {type(error).__name__}: {error}"
            raise NotEvaluatedError(text) from error
        except _DOES_NOT_FIT as error:
            raise EvaluationError(f"layer {step.name} ({step.kind}) does not compute: {error}") from error
        for (_, dtype, dims), result in zip(step.outputs, results, strict=True):
            fits = len(dims) == result.ndim and all(a in (-1, b) for a, b in zip(dims, result.shape, strict=True))
            if result.dtype != dtype or (not fits and step.kind != "ATTENTION_INPUT"):
                raise EvaluationError(
                    f"layer {step.name} ({step.kind}) evaluates to {result.dtype} {list(result.shape)} "
                    f"where the network says {dtype} {list(dims)}"
                )
        return results

    def _loop(self, loop: _Loop, frame: Frame) -> None:
        """One loop from its first iteration to its last; gives all of its outputs."""
        counts = [step for step in loop.limits if step.variant == "COUNT"]
        count = min((integers(self._first(step, frame))[0] for step in counts), default=None)
        conditions = [step for step in loop.limits if step.variant == "WHILE"]
        state = {step.outputs[0][0]: self._first(step, frame) for step in loop.recurrences}
        kept: dict[int, list[torch.Tensor]] = {step.outputs[0][0]: [] for step in loop.outputs}
        last: dict[int, torch.Tensor] = {}
        iteration = 0
        while count is None or iteration < count:
            inner = Frame(dict(state), frame, loop.inside)
            for step in loop.iterators:
                at = (count or 0) - 1 - iteration if step.variant == "REVERSE" else iteration
                inner.values[step.outputs[0][0]] = self._first(step, frame).select(step.axis, at)
            if not all(bool(self._first(step, inner)) for step in conditions):
                break
            for step in loop.outputs:
                value = self._first(step, inner)
                kept[step.outputs[0][0]].append(value)
                last[step.outputs[0][0]] = value
            state = {step.outputs[0][0]: self._at(step, 1, inner) for step in loop.recurrences}
            iteration += 1
        for step in loop.outputs:
            number = step.outputs[0][0]
            if step.variant == "LAST_VALUE":
                source = step.inputs[0]
                result = state[source] if source in state else last.get(number)
            else:
                length = integers(self._at(step, 1, frame))[0]
                result = _stacked(kept[number], step, length)
            if result is None:
                raise NotEvaluatedError(f"loop output {step.name} of a loop that never ran")
            frame.values[number] = result

    def _first(self, step: Step, frame: Frame) -> torch.Tensor:
        return self._at(step, 0, frame)

    def _at(self, step: Step, index: int, frame: Frame) -> torch.Tensor:
        number = step.inputs[index] if index < len(step.inputs) else None
        if number is None:
            raise EvaluationError(f"layer {step.name} ({step.kind}) lacks its input {index}")
        self._known(number, frame)
        return self.value(number, frame)


def _home(target: int, frame: Frame) -> Frame:
    while frame.parent is not None and target not in frame.inside and target not in frame.values:
        frame = frame.parent
    return frame


def _stacked(values: list[torch.Tensor], step: Step, length: int) -> torch.Tensor:
    if len(values) != length:
        raise EvaluationError(f"loop output {step.name} of {length} elements after {len(values)} iterations")
    if not values:
        _, dtype, dims = step.outputs[0]
        return torch.zeros([0 if at == step.axis else max(size, 0) for at, size in enumerate(dims)], dtype=dtype)
    return torch.stack(values[::-1] if step.variant == "REVERSE" else values, step.axis)


def _reached(steps: Sequence[Step], loop: _Loop) -> frozenset[int]:
    """The tensors that change from one iteration of the loop to the next."""
    readers: dict[int, list[Step]] = {}
    for step in steps:
        for number in step.inputs:
            if number is not None:
                readers.setdefault(number, []).append(step)
    conditional: dict[int, list[Step]] = {}
    for step in steps:
        if step.kind == "CONDITIONAL_OUTPUT":
            conditional.setdefault(step.scope, []).append(step)
    pending = [number for step in (*loop.recurrences, *loop.iterators) for number, _, _ in step.outputs]
    ends = {id(step) for step in loop.outputs}
    found: set[int] = set()
    while pending:
        number = pending.pop()
        if number in found:
            continue
        found.add(number)
        for step in readers.get(number, ()):
            after = conditional.get(step.scope, []) if step.kind == "CONDITION" else [step]
            pending += [made for one in after if id(one) not in ends for made, _, _ in one.outputs]
    return frozenset(found)
