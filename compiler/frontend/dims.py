"""Which axes of the inputs vary, what they are called, and what tracing found out about them.

Every varying axis is traced with torch's Dim.AUTO at a size of at least 2 (torch treats 0 and 1 as constants), so that
torch may discover how axes depend on each other; names and bounds are the user's, checked against what was traced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils._sympy.numbers import int_oo

from ingot.errors import ExportError, UsageError
from ingot.frontend.structure import Call
from ingot.signature import Axis, Dim, Linear, Tree, children, linear

AUTO = torch.export.Dim.AUTO
_HINTS = (torch.export.Dim.AUTO, torch.export.Dim.DYNAMIC)


@dataclass(slots=True)
class AxisPlan:
    """What is wanted of an axis of an input: a name or expression (None: torch names it), and whether it must vary."""

    name: str | None
    must_vary: bool


@dataclass(slots=True)
class Plan:
    """The varying axes of each input, by axis number, and the bounds the user gave by dim name."""

    axes: list[dict[int, AxisPlan]]
    bounds: dict[str, Dim]

    def torch_spec(self) -> tuple[dict[int, Any], ...]:
        return tuple(dict.fromkeys(axes, AUTO) for axes in self.axes)


def plan(call: Call, dynamic_shapes: Any) -> Plan:
    """Reads torch.export's form of dynamic shapes (names as plain strings too), or makes the default:

    axis 0 of every input is the batch, axis 1 of integer inputs of rank 2 is the sequence, as long as sizes agree.
    Raises UsageError where the form does not fit the inputs.
    """
    if dynamic_shapes is None:
        return _default_plan(call.tensors)
    made = Plan([{} for _ in call.tensors], {})
    for name, spec in by_parameter(dynamic_shapes, list(call.trees)).items():
        if name not in call.trees:
            raise UsageError(
                f"dynamic_shapes names '{name}', which is not an input", fix=f"one of: {', '.join(call.trees)}"
            )
        _read_spec(spec, call.trees[name], name, call.tensors, made)
    return made


def by_parameter(dynamic_shapes: Any, names: Sequence[str]) -> dict[str, Any]:
    """torch.export's two forms as one: a mapping by parameter name, or a tuple in the order of the parameters `names`.

    Raises UsageError where it is neither, or the tuple has more entries than there are parameters.
    """
    first = names[0] if names else "x"
    if isinstance(dynamic_shapes, Mapping):
        return dict(dynamic_shapes)
    if not isinstance(dynamic_shapes, tuple | list):
        raise UsageError(
            f"dynamic_shapes is {_shown(dynamic_shapes)}, where a dict by input is due",
            fix=f"dynamic_shapes={{'{first}': {{0: '{_name(dynamic_shapes)}'}}}}",
        )
    if len(dynamic_shapes) > len(names):
        raise UsageError(
            f"dynamic_shapes has {len(dynamic_shapes)} entries, and the call has {len(names)} inputs: "
            f"{', '.join(names)}",
            fix=f"dynamic_shapes={{'{first}': {{0: 'batch'}}}}",
        )
    return dict(zip(names, dynamic_shapes, strict=False))


def _default_plan(tensors: Sequence[torch.Tensor]) -> Plan:
    made = Plan([{} for _ in tensors], {})

    def mark(axis: int, name: str, chosen: list[int]) -> None:
        sizes = {tensors[index].shape[axis] for index in chosen}
        for index in chosen:
            if len(sizes) == 1:
                made.axes[index][axis] = AxisPlan(name, must_vary=False)
            elif tensors[index].shape[axis] > 1:
                made.axes[index][axis] = AxisPlan(None, must_vary=False)

    mark(0, "batch", [index for index, tensor in enumerate(tensors) if tensor.dim() >= 1])
    whole = [index for index, tensor in enumerate(tensors) if tensor.dim() == 2 and not tensor.is_floating_point()]
    mark(1, "sequence", whole)
    return made


def _read_spec(spec: Any, tree: Tree, path: str, tensors: Sequence[torch.Tensor], made: Plan) -> None:
    if spec is None or "constant" in tree:
        return
    if "tensor" not in tree:
        parts = _parts(spec, tree, path)
        for key, child in children(tree):
            _read_spec(parts.get(str(key)), child, f"{path}.{key}", tensors, made)
        return
    if not isinstance(spec, Mapping | tuple | list):
        raise UsageError(
            f"dynamic_shapes has {_shown(spec)} for {path}, where its axes by number are due",
            fix=f"{{0: '{_name(spec)}'}} for {path}, or None where all its axes are fixed",
        )
    index = tree["tensor"]
    rank = tensors[index].dim()
    entries = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    for axis, entry in entries:
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise UsageError(
                f"dynamic_shapes gives {path} an axis {axis!r}; it has {rank} axes",
                fix=f"a number from 0 to {rank - 1}: {{0: 'batch'}}" if rank else f"None for {path}",
            )
        planned = _read_entry(entry, made.bounds)
        if planned is not None:
            made.axes[index][axis % rank] = planned


def _parts(spec: Any, tree: Tree, path: str) -> dict[str, Any]:
    """What is said of each part of a nested input, by the part's key as text; parts left out of a dict are fixed."""
    keys = [str(key) for key, _ in children(tree)]
    sequence = "tuple" in tree or "list" in tree
    parts, strange = None, []
    if isinstance(spec, Mapping):
        parts = {str(key): part for key, part in spec.items()}
        strange = [key for key in parts if key not in keys]
    elif sequence and isinstance(spec, tuple | list) and len(spec) == len(keys):
        parts = dict(zip(keys, spec, strict=True))
    if parts is None or strange:
        form = ", ".join("{0: 'batch'}" if sequence else f"'{key}': {{0: 'batch'}}" for key in keys)
        given = f"the key '{strange[0]}'" if strange else _shown(spec)
        raise UsageError(
            f"dynamic_shapes has {given} for {path}, whose parts are {', '.join(keys) or 'none'}",
            fix=f"{f'[{form}]' if sequence else f'{{{form}}}'} for {path}, with None for a part whose axes are fixed",
        )
    return parts


def _shown(spec: Any) -> str:
    if isinstance(spec, str):
        return f"the text '{spec}'"
    if isinstance(spec, torch.export.Dim):
        return f"the dim '{spec.__name__}' alone"
    if isinstance(spec, tuple | list):
        return f"{len(spec)} entries"
    return "a number" if isinstance(spec, int | float) else f"a {type(spec).__name__}"


def _name(spec: Any) -> str:
    """The name for the example in an error's fix."""
    name = spec if isinstance(spec, str) else getattr(spec, "__name__", "")
    return name if linear(name) is not None else "batch"


def _read_entry(entry: Any, bounds: dict[str, Dim]) -> AxisPlan | None:
    if entry is None or isinstance(entry, int) or entry == torch.export.Dim.STATIC:
        return None
    if isinstance(entry, str):
        _part(entry)
        return AxisPlan(entry, must_vary=True)
    if any(entry == hint for hint in _HINTS):
        return AxisPlan(None, must_vary=entry == torch.export.Dim.DYNAMIC)
    if isinstance(entry, torch.export.Dim):
        root = getattr(entry, "root", entry)
        low, high = max(1, int(root.min)), None if root.max == int_oo else int(root.max)
        _part(entry.__name__)
        bounds[root.__name__] = Dim(root.__name__, low, high)
        return AxisPlan(entry.__name__, must_vary=True)
    raise UsageError(
        f"dynamic_shapes has a {type(entry).__name__} where an axis is due",
        fix="torch.export.Dim('batch', max=64), a name such as 'batch', or None for a fixed size",
    )


def example_sizes(
    call: Call, declared: Sequence[Mapping[int, Linear]], bounds: Mapping[str, Dim], *, option: str = ""
) -> dict[str, int]:
    """The size of each dim in the example inputs. `declared` is by tensor; `option` comes first in what an error says.

    Raises UsageError where the examples disagree about a dim, or have a size outside of its bounds.
    """
    sizes: dict[str, int] = {}
    for name, tensor, axes in zip(call.names, call.tensors, declared, strict=True):
        for axis, expression in axes.items():
            dim, value = expression.dim, expression.solve(tensor.shape[axis])
            here = f"{option}axis {axis} of '{name}' is {tensor.shape[axis]} in the example inputs"
            fix = "example inputs of a size that is declared, or another declaration"
            if value is None or sizes.setdefault(dim, value) != value:
                known = f" = {sizes[dim]}: they disagree about '{dim}'" if dim in sizes else ""
                raise UsageError(f"{here}, which does not fit '{dim}'{known}", fix=fix)
            allowed = bounds.get(dim, Dim(dim))
            if value < allowed.min or (allowed.max is not None and value > allowed.max):
                raise UsageError(f"{here}, and {allowed} is declared", fix=fix)
    return sizes


def _refuse_empty(call: Call) -> None:
    for name, tensor in zip(call.names, call.tensors, strict=True):
        if 0 in tensor.shape:
            shape = tuple(tensor.shape)
            raise UsageError(
                f"the example input '{name}' is empty: its shape is {shape}",
                fix=f"an example of at least one element, say of shape {tuple(size or 2 for size in shape)}",
            )


def sized_for_tracing(call: Call, planned: Plan) -> list[torch.Tensor]:
    """The example tensors with every varying axis at a size of 2 or more; rows are repeated where one was too short.

    Raises UsageError where an example is empty, or its sizes do not fit the plan's dims and bounds.
    """
    _refuse_empty(call)
    named = [
        {axis: part for axis, wanted in axes.items() if wanted.name and (part := linear(wanted.name))}
        for axes in planned.axes
    ]
    roots = example_sizes(call, named, planned.bounds)
    short = {name for name, size in roots.items() if size < 2}
    sized = []
    for tensor, axes in zip(call.tensors, planned.axes, strict=True):
        for axis, wanted in axes.items():
            expression = (linear(wanted.name) if wanted.name else None) or Linear("", 1, 0)
            if expression.dim in short or (expression.dim == "" and tensor.shape[axis] < 2):
                size = expression.size(2)
                tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
        sized.append(tensor)
    return sized


@dataclass(slots=True)
class Traced:
    """The shape of each input as traced, the declared dims, torch's symbols by name, and what is worth saying."""

    shapes: list[tuple[Axis, ...]]
    dims: list[Dim]
    symbols: dict[sympy.Expr, sympy.Expr]
    notes: list[str]

    def axis(self, size: int | torch.SymInt) -> Axis:
        """A traced size with torch's symbols replaced by the declared names."""
        settled = _settled(size)
        if isinstance(settled, int):
            return settled
        return str(settled.node.expr.subs(self.symbols, simultaneous=True))

    def renamed(self, expression: str) -> str:
        """The same for an expression that the exporter wrote as text ("s50 + s86")."""
        # By name: torch's symbols are positive integers to sympy, those of a text are not, and the two do not compare.
        # The declared names too: without them sympy reads "sequence", "beta" or "N" as functions of its own.
        declared = set().union(*(value.free_symbols for value in self.symbols.values()))
        ours = {str(symbol): symbol for symbol in [*declared, *self.symbols]}
        return str(sympy.sympify(expression, locals=ours).subs(self.symbols, simultaneous=True))


def read_traced(
    names: Sequence[str],
    values: Sequence[torch.Tensor],
    planned: Plan,
    ranges: Mapping[sympy.Symbol, Any],
) -> Traced:
    """Compares what was wanted of the axes with what the trace made of them.

    Raises ExportError when an axis that must vary became fixed, when two dims turned out to be one, or when the model
    allows less than the bounds the user gave.
    """
    traced = Traced([], [], {}, [])
    owner: dict[sympy.Expr, str] = {}
    every = [
        (name, axis, _settled(value.shape[axis]), wanted)
        for name, value, axes in zip(names, values, planned.axes, strict=True)
        for axis, wanted in axes.items()
    ]
    # Named axes first, so that an unnamed one which the trace found equal goes by that name.
    for name, axis, size, wanted in sorted(every, key=lambda item: item[3].name is None):
        if isinstance(size, int):
            _say_fixed(name, axis, size, wanted, traced.notes)
            continue
        expression = size.node.expr
        if not isinstance(expression, sympy.Symbol) or (wanted.name is None and expression in owner):
            continue
        label = wanted.name or re.sub(r"\W", "_", f"{name}_{axis}")
        other = owner.setdefault(expression, label)
        if other != label:
            raise ExportError(
                f"the model needs '{other}' and '{label}' (axis {axis} of {name}) to be equal",
                fix=f"name both '{other}' in dynamic_shapes",
            )
        part = _part(label)
        traced.symbols[expression] = part.scale * sympy.Symbol(part.dim) + part.offset
    bounds: dict[str, Dim] = {}
    for symbol, label in owner.items():
        part = _part(label)
        bounds[part.dim] = _bounded(part, ranges.get(symbol), planned.bounds.get(part.dim), bounds.get(part.dim))
    traced.shapes = [tuple(traced.axis(size) for size in value.shape) for value in values]
    used = {form.dim for shape in traced.shapes for axis in shape if isinstance(axis, str) and (form := linear(axis))}
    traced.dims = [dim for name, dim in bounds.items() if name in used]
    return traced


def _settled(size: int | torch.SymInt) -> int | torch.SymInt:
    """The number of a symbol that the trace found to have only one value."""
    return int(size.node.expr) if isinstance(size, torch.SymInt) and size.node.expr.is_Integer else size


def _part(label: str) -> Linear:
    part = linear(label)
    if part is None or part.scale < 1:
        raise UsageError(
            f"'{label}' is not a dim", fix="a name, or a whole multiple of one plus a number: '2*length + 1'"
        )
    return part


def _say_fixed(name: str, axis: int, size: int, wanted: AxisPlan, notes: list[str]) -> None:
    if wanted.must_vary:
        raise ExportError(
            f"axis {axis} of {name} is declared as '{wanted.name or 'dynamic'}', but the model fixes it at {size}",
            fix=f"make the model's code independent of that size, or declare it fixed: {{'{name}': {{{axis}: None}}}}",
        )
    notes.append(f"axis {axis} of {name} is fixed at {size}: the model's code depends on that size")


def _bounded(part: Linear, traced: Any, asked: Dim | None, known: Dim | None) -> Dim:
    """The bounds of the dim in an axis `part` whose size was traced to lie in the range `traced`."""
    name, low, high = part.dim, 1, None
    if traced is not None:
        low = int(traced.lower) if int(traced.lower) > 2 else 1
        high = None if traced.upper == int_oo or int(traced.upper) >= 2**31 else int(traced.upper)
    low = max(1, -((part.offset - low) // part.scale))
    high = None if high is None else (high - part.offset) // part.scale
    if asked is not None:
        if high is not None and asked.max is not None and asked.max > high:
            raise ExportError(
                f"'{name}' is declared up to {asked.max}, but the model allows at most {high}",
                fix=f"--shape …={name}:1..{high}, or torch.export.Dim('{name}', max={high})",
            )
        low = max(low, asked.min)
        high = asked.max if asked.max is not None else high
    if known is not None:
        low = max(low, known.min)
        high = min((limit for limit in (high, known.max) if limit is not None), default=None)
    return Dim(name, low, high)
