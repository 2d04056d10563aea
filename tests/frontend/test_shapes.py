"""The grammar of `--shape`, and what it makes of the inputs of a module and of a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import UsageError
from ingot.frontend.declare import declare_shapes
from ingot.frontend.dims import plan
from ingot.frontend.export import export
from ingot.frontend.shapes import Bounds, Shapes, parse_shapes
from ingot.frontend.source import Source, resolve
from ingot.frontend.structure import take_apart
from ingot.signature import Dim, Linear

BATCH, SEQUENCE, N = Linear("batch"), Linear("sequence"), Linear("n")


@pytest.mark.parametrize(
    ("typed", "axes", "bounds"),
    [
        (
            "input_ids=batch:1..64,sequence:1..512",
            {"input_ids": (BATCH, SEQUENCE)},
            {"batch": Bounds(1, 64), "sequence": Bounds(1, 512)},
        ),
        ("x=batch,3,n:32..", {"x": (BATCH, 3, N)}, {"batch": Bounds(), "n": Bounds(32, None)}),
        ("x = batch : .. 8 ; y = 4", {"x": (BATCH,), "y": (4,)}, {"batch": Bounds(None, 8)}),
        ("a=n,b=n+1", {"a": (N,), "b": (Linear("n", 1, 1),)}, {"n": Bounds()}),
        (["a=2*n + 1", "b=n:2..9"], {"a": (Linear("n", 2, 1),), "b": (N,)}, {"n": Bounds(2, 9)}),
        ("a=n:2..9,b=n,c=n:2..9", {"a": (N,), "b": (N,), "c": (N,)}, {"n": Bounds(2, 9)}),
        ("a=3*n-5", {"a": (Linear("n", 3, -5),)}, {"n": Bounds(2, None)}),
        ("batch.pair.0=n", {"batch.pair.0": (N,)}, {"n": Bounds()}),
    ],
)
def test_what_can_be_written(typed: Any, axes: dict[str, Any], bounds: dict[str, Any]) -> None:
    assert parse_shapes(typed) == Shapes(axes, bounds)


@pytest.mark.parametrize(
    ("typed", "said", "pointed"),
    [
        ("", "come first", ""),
        ("batch,3", "come first", "batch,3"),
        ("x=", "an axis is missing", ""),
        ("x=batch,,3", "an axis is missing", ",3"),
        ("x=batch, n:1-4", "'n:1-4' is not an axis", "n:1-4"),
        ("x=a=b", "'a=b' is not an axis", "a=b"),
        ("1x=batch", "not the name of an input", "1x=batch"),
        ("x=n:4..2", "4 is more than 2", "4..2"),
        ("x=n:4..4", "one size only", "4..4"),
        ("x=n:..", "no bound", ".."),
        ("x=batch,0", "at least 1", "0"),
        ("x=n:0..4", "at least 1", "0..4"),
        ("x=2*n+1:3..5", "bounds stand at 'n' alone", ":3..5"),
        ("x=0*n", "multiplied by at least 1", "0*n"),
        ("x=class", "a word of Python", "class"),
        ("x=n:1..4,y=n:1..5", "other bounds", "1..5"),
        ("x=n,x=n", "given twice", "n"),
    ],
)
def test_what_cannot_be_read_is_pointed_at(typed: str, said: str, pointed: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        parse_shapes(typed)
    _, line, caret, fix = str(caught.value).splitlines()
    assert line[caret.index("^") :] == pointed
    assert fix.startswith("  try:   ")


def test_a_size_that_follows_is_never_empty() -> None:
    with pytest.raises(UsageError, match="from n=3 on"):
        parse_shapes("a=n:1..8,b=n-2")


class Join(torch.nn.Module):
    """a [n], b [n + 1] and, where it is given, rows [n, 4]."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        y = torch.cat([a, b[1:]]) * b[:1]
        return y if rows is None else y + rows.sum()


def examples(n: int = 5) -> dict[str, torch.Tensor]:
    return {"a": torch.ones(n), "b": torch.ones(n + 1)}


def declared(typed: str, model: Any, inputs: Any = None) -> Source:
    source = resolve(model, inputs)
    declare_shapes(source, parse_shapes(typed))
    return source


def dims_of(source: Source) -> tuple[list[dict[int, str | None]], dict[str, Dim]]:
    planned = plan(take_apart(source.module.forward, source.args, source.kwargs), source.dynamic_shapes)
    return [{axis: wanted.name for axis, wanted in axes.items()} for axes in planned.axes], planned.bounds


def test_dims_that_depend_on_each_other() -> None:
    source = declared("a=n:3..40,b=n+1", Join(), examples())
    assert dims_of(source) == ([{0: "n"}, {0: "n + 1"}], {"n": Dim("n", 3, 40)})
    signature = export(source).signature
    assert [tensor.shape for tensor in signature.inputs] == [("n",), ("n + 1",)]
    assert signature.dims == (Dim("n", 3, 40),)


def test_a_dim_may_stand_in_an_expression_only() -> None:
    source = declared("a=2*k+1,b=2*k+2", Join(), examples())
    assert dims_of(source)[0] == [{0: "2*k + 1"}, {0: "2*k + 2"}]
    source = declared("a=n-1,b=n", Join(), examples())
    assert dims_of(source) == ([{0: "n - 1"}, {0: "n"}], {"n": Dim("n", 2)})


def test_inputs_that_are_not_named_follow_by_their_size() -> None:
    source = declared("a=n,b=n+1", Join(), examples() | {"rows": torch.ones(5, 4)})
    assert dims_of(source)[0] == [{0: "n"}, {0: "n + 1"}, {0: None}]


class Rows(torch.nn.Module):
    """Every row of x [B, S] times that of a mask [B, S]."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * mask


def test_an_axis_that_tracing_finds_equal_goes_by_the_name() -> None:
    inputs = {"mask": torch.ones(3, 5), "x": torch.ones(3, 5)}
    source = declared("x=rows,5", Rows(), inputs)
    signature = export(source).signature
    assert [tensor.shape for tensor in signature.inputs] == [("rows", 5), ("rows", 5)]


class Nest(torch.nn.Module):
    def forward(self, batch: dict[str, Any], scale: float) -> torch.Tensor:
        left, right = batch["pair"]
        return torch.add(left, right, alpha=scale)


def test_nested_inputs_are_named_by_their_path() -> None:
    inputs = {"batch": {"pair": (torch.ones(2, 3), torch.ones(2, 3))}, "scale": 2.0}
    source = declared("batch.pair.0=n,3;batch.pair.1=n,3", Nest(), inputs)
    assert dims_of(source)[0] == [{0: "n"}, {0: "n"}]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("aa=n", "no input 'aa'"),
        ("a=n,3", "'a' has 1 axes, and 2 are given"),
        ("a=4", "axis 0 of 'a' is 5 in the example inputs, and 4 is declared"),
        ("a=n:6..9", "n:6..9 is declared"),
        ("a=n,b=n", "does not fit 'n' = 5"),
        ("a=2*n", "does not fit 'n'"),
    ],
)
def test_shapes_that_do_not_fit_the_examples(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        declared(typed, Join(), examples())
    assert caught.value.fix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with room for 40 tokens."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
    )
    home = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng(devices=[]):
        transformers.BertModel(config).save_pretrained(home)
    return home


def folder_dims(folder: Path, typed: str) -> tuple[Source, list[dict[int, str | None]], dict[str, Dim]]:
    source = declared(typed, folder)
    return source, *dims_of(source)


def test_a_folder_keeps_the_bounds_that_were_not_given(folder: Path) -> None:
    _, axes, bounds = folder_dims(folder, "input_ids=batch:1..8,sequence")
    assert axes == [{0: "batch", 1: "sequence"}] * 3
    assert bounds == {"batch": Dim("batch", 1, 8), "sequence": Dim("sequence", 1, 40)}


def test_a_new_name_holds_for_all_inputs_of_a_folder(folder: Path) -> None:
    _, axes, bounds = folder_dims(folder, "attention_mask=rows,tokens:4..32")
    assert axes == [{0: "rows", 1: "tokens"}] * 3
    assert bounds == {"rows": Dim("rows"), "tokens": Dim("tokens", 4, 32)}


def test_examples_of_a_folder_are_made_to_fit(folder: Path) -> None:
    source, axes, _ = folder_dims(folder, "input_ids=1,sequence:24..32")
    assert axes == [{1: "sequence"}] * 3
    assert {tuple(value.shape) for value in source.kwargs.values()} == {(1, 24)}
    source, axes, _ = folder_dims(folder, "input_ids=3,n:30..")
    mask = source.kwargs["attention_mask"]
    assert mask.shape == (3, 30)
    assert bool((mask.diff(dim=1) <= 0).all())
    assert int(mask.sum()) < mask.numel()
    assert source.module(**source.kwargs).last_hidden_state.shape == (3, 30, 16)


@pytest.mark.parametrize("typed", ["input_ids=batch,sequence:1..41", "input_ids=batch,n:50..60", "input_ids=batch,41"])
def test_more_than_the_model_has_is_refused(folder: Path, typed: str) -> None:
    with pytest.raises(UsageError, match="the model takes 1 to 40"):
        declared(typed, folder)


def test_examples_of_the_caller_are_never_resized(folder: Path) -> None:
    ids = torch.ones(2, 5, dtype=torch.int64)
    with pytest.raises(UsageError, match="axis 0 of 'input_ids' is 2"):
        declared("input_ids=1,sequence", folder, {"input_ids": ids})
