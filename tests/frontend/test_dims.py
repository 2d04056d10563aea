"""Dims of inputs: forms that fit no input, bounds against examples and trace; and the structure around the tensors."""

from __future__ import annotations

import re
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ingot.errors import ExportError, UsageError
from ingot.frontend.declare import declare_shapes
from ingot.frontend.dims import plan, sized_for_tracing
from ingot.frontend.export import export
from ingot.frontend.shapes import parse_shapes
from ingot.frontend.source import Source
from ingot.frontend.structure import evaluating, flatten, take_apart, unflatten
from ingot.signature import Dim
from ingot.verify.draw import cases


class Double(torch.nn.Module):
    """x [B, S], and the same doubled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Join(torch.nn.Module):
    """a [n] and b [m], put one behind the other."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([a, b])


@dataclass
class Parts:
    left: torch.Tensor
    right: torch.Tensor


class Nest(torch.nn.Module):
    def forward(self, pair: Any, x: torch.Tensor) -> torch.Tensor:
        return x


class AttrDict(dict[str, Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__ = self


class Named(dict[str, Any]):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Store(MutableMapping[str, Any]):
    """A mapping around a dict that a copy of it would share."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


ONE = torch.ones(2, 3)
TWO = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("dim", "size"), [(torch.export.Dim("b", max=9), 30), (torch.export.Dim("b", min=5, max=9), 3)]
)
def test_an_example_outside_of_its_bounds(dim: Any, size: int) -> None:
    for axis in (dim, 2 * dim):
        x = torch.ones(size if axis is dim else 2 * size, 4)
        call = take_apart(Double().forward, (x,), {})
        with pytest.raises(UsageError, match=rf"axis 0 of 'x' is {len(x)} .* and b:\d\.\.9 is declared"):
            sized_for_tracing(call, plan(call, {"x": {0: axis}}))


@pytest.mark.parametrize("size", [5, 9])
def test_an_example_at_a_bound(size: int) -> None:
    call = take_apart(Double().forward, (torch.ones(size, 4),), {})
    planned = plan(call, {"x": {0: torch.export.Dim("b", min=5, max=9)}})
    assert sized_for_tracing(call, planned)[0].shape == (size, 4)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_example(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=re.escape(f"'x' is empty: its shape is {shape}")) as caught:
        export(Source("double", Double(), (torch.ones(shape),)))
    assert re.search(r"\((2, 4|4, 2)\)", str(caught.value.fix))


@pytest.mark.parametrize("axis", ["2*n", 2 * torch.export.Dim("n", max=40)])
def test_a_dim_in_an_expression_alone_is_declared(axis: Any) -> None:
    x = torch.ones(2, 6)
    signature = export(Source("double", Double(), (x,), {}, {"x": {0: "b", 1: axis}})).signature
    assert signature.inputs[0].shape == ("b", "2*n")
    assert signature.dims == (Dim("b"), Dim("n", 1, None if axis == "2*n" else 40))
    drawn = cases(signature, [x.numpy()], seed=0)
    assert len(drawn) > 1
    assert all(case.inputs[0].shape[1] % 2 == 0 for case in drawn)


def test_shape_text_with_a_dim_in_an_expression_alone() -> None:
    source = Source("double", Double(), (torch.ones(2, 6),))
    declare_shapes(source, parse_shapes("x=b,2*n"))
    assert export(source).signature.dims == (Dim("b"), Dim("n"))


class Window(torch.nn.Module):
    """x [L], L at most 11 and at least 5."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._check(x.shape[0] <= 11)
        torch._check(x.shape[0] >= 5)
        return x * 2


def test_bounds_are_divided_back_through_the_expression() -> None:
    signature = export(Source("window", Window(), (torch.ones(7),), {}, {"x": {0: "2*n + 1"}})).signature
    assert signature.dims == (Dim("n", 2, 5),)
    wide = 2 * torch.export.Dim("n", max=6) + 1
    with pytest.raises(ExportError, match="'n' is declared up to 6, but the model allows at most 5"):
        export(Source("window", Window(), (torch.ones(7),), {}, {"x": {0: wide}}))


def test_two_expressions_of_one_dim() -> None:
    shapes = {"a": {0: "n + 3"}, "b": {0: "2*n"}}
    signature = export(Source("join", Join(), (torch.ones(7), torch.ones(8)), {}, shapes)).signature
    assert [tensor.shape for tensor in signature.inputs] == [("n + 3",), ("2*n",)]
    assert signature.dims == (Dim("n"),)


@pytest.mark.parametrize(
    ("shapes", "said", "typed"),
    [
        ("batch", "the text 'batch'", "dynamic_shapes={'pair': {0: 'batch'}}"),
        (3, "is a number", "dynamic_shapes={'pair': {0: 'batch'}}"),
        ((None, {0: "b"}, None), "3 entries, and the call has 2 inputs", "dynamic_shapes={'pair': {0: 'batch'}}"),
        ({"x": "b"}, "the text 'b' for x", "{0: 'b'} for x"),
        ({"x": torch.export.Dim("b")}, "the dim 'b' alone for x", "{0: 'b'} for x"),
        ({"x": torch.export.Dim.AUTO}, "for x, where its axes", "{0: 'batch'} for x"),
        ({"x": {0: "2b"}}, "'2b' is not a dim", "2*length + 1"),
        ({"x": {2: "b"}}, "x an axis 2; it has 2 axes", "0 to 1"),
        ({"x": {"b": 0}}, "x an axis 'b'", "{0: 'batch'}"),
        ({"x": {0: 1.5}}, "a float where an axis", "torch.export.Dim"),
        ({"y": {0: "b"}}, "'y', which is not an input", "pair, x"),
        ({"pair": [{0: "b"}]}, "1 entries for pair, whose parts are 0, 1", "[{0: 'batch'}, {0: 'batch'}] for pair"),
        ({"pair": [{0: "b"}] * 3}, "3 entries for pair", "[{0: 'batch'}, {0: 'batch'}] for pair"),
        ({"pair": "b"}, "the text 'b' for pair", "[{0: 'batch'}, {0: 'batch'}] for pair"),
        ({"pair": {"left": {0: "b"}}}, "the key 'left' for pair", "[{0: 'batch'}, {0: 'batch'}] for pair"),
        ({"pair": [{0: "b"}, "b"]}, "the text 'b' for pair.1", "{0: 'b'} for pair.1"),
    ],
)
def test_dynamic_shapes_that_fit_no_input(shapes: Any, said: str, typed: str) -> None:
    call = take_apart(Nest().forward, ((ONE, TWO), ONE), {})
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        plan(call, shapes)
    assert typed in str(caught.value.fix)


@pytest.mark.parametrize("pair", [{"left": ONE, "right": TWO}, Parts(ONE, TWO)])
def test_a_list_for_parts_with_names(pair: Any) -> None:
    call = take_apart(Nest().forward, (pair, ONE), {})
    with pytest.raises(UsageError, match="2 entries for pair, whose parts are left, right") as caught:
        plan(call, {"pair": [{0: "b"}, None]})
    assert "{'left': {0: 'batch'}, 'right': {0: 'batch'}} for pair" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("pair", "spec"),
    [
        ((ONE, TWO), [None, {0: "b"}]),
        ((ONE, TWO), {1: {0: "b"}}),
        ({0: ONE, 1: TWO}, {1: ["b", None]}),
        (Parts(ONE, TWO), {"right": {-2: "b"}}),
    ],
)
@pytest.mark.parametrize("form", [dict, tuple])
def test_dynamic_shapes_of_nested_inputs(pair: Any, spec: Any, form: type) -> None:
    call = take_apart(Nest().forward, (pair, ONE), {})
    planned = plan(call, {"pair": spec, "x": None} if form is dict else (spec, None))
    names = [{axis: wanted.name for axis, wanted in axes.items()} for axes in planned.axes]
    assert names == [{}, {0: "b"}, {}]


class Keyed(torch.nn.Module):
    def forward(self, pair: dict[str, torch.Tensor]) -> torch.Tensor:
        return pair["my key"] * 2


def test_an_axis_without_a_name_gets_one_that_can_be_written() -> None:
    shapes = {"pair": {"my key": {0: torch.export.Dim.AUTO}}}
    signature = export(Source("keyed", Keyed(), ({"my key": ONE},), {}, shapes)).signature
    assert signature.inputs[0].shape == ("pair_my_key_0", 3)
    assert [dim.name for dim in signature.dims] == ["pair_my_key_0"]


def test_keys_that_are_equal_as_text() -> None:
    with pytest.raises(ExportError, match=re.escape("pair has the keys 1 and '1'")) as caught:
        take_apart(Nest().forward, ({1: ONE, "1": TWO}, ONE), {})
    assert caught.value.fix
    assert len(flatten({1: ONE, "2": TWO})[0]) == 2


def like_values() -> list[Any]:
    named = Named("mine")
    named["x"] = ONE
    values = {"x": ONE}
    return [
        values,
        OrderedDict(values),
        defaultdict(list, values),
        UserDict(values),
        AttrDict(values),
        Store(values),
        named,
    ]


@pytest.mark.parametrize("like", like_values(), ids=lambda like: type(like).__name__)
def test_a_mapping_keeps_its_type(like: Any) -> None:
    tensors, tree = flatten(like)
    made = unflatten(tree, [TWO], like=like)
    assert type(made) is type(like)
    assert made["x"] is TWO
    assert like["x"] is tensors[0] is ONE
    if isinstance(made, defaultdict):
        assert made["absent"] == []
    if isinstance(made, AttrDict):
        assert made.x is TWO
        assert like.x is ONE
    if isinstance(made, Named):
        assert made.name == "mine"


class Lora(torch.nn.Linear):
    """As loralib: eval mode merges the update into the weight, train mode takes it out again."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.merged = False
        self.update = torch.ones(2, 2)
        self.weight.data.zero_()

    def train(self, mode: bool = True) -> Lora:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.update if mode else self.update
            self.merged = not mode
        return self


def test_a_module_that_works_in_train_is_put_back() -> None:
    tuned, frozen, plain = Lora(), Lora(), torch.nn.Dropout()
    model = torch.nn.Sequential(tuned, torch.nn.Sequential(frozen, plain))
    frozen.eval()
    plain.eval()
    with evaluating(model):
        assert tuned.merged
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, True, False, False]
    assert (tuned.merged, frozen.merged) == (False, True)
    assert tuned.weight.sum() == 0
    assert frozen.weight.sum() == 4


def test_a_model_is_put_back_when_something_raises() -> None:
    model = torch.nn.Sequential(Lora())
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.training
    assert not model[0].merged
