"""`package.module:name` and plain callables, from modules written into a temporary folder."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import SourceError, UsageError
from ingot.frontend.python_object import import_name
from ingot.frontend.source import resolve

CODE = """
import numpy, torch

class Linear(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Needs(torch.nn.Module):
    def __init__(self, width):
        super().__init__()

ready = torch.nn.Linear(3, 2)
number = 3

def with_tensor():
    return ready, torch.ones(2, 3)

def with_tuple():
    return ready, (torch.ones(2, 3),)

def with_keywords():
    return ready, {"input": numpy.ones((2, 3), numpy.float32)}

def with_dims():
    return ready, {"input": torch.ones(2, 3)}, {"input": {0: "batch"}}

def with_tuple_dims():
    return ready, (torch.ones(2, 3),), ({0: "b"},)

def with_text_dims():
    return ready, (torch.ones(2, 3),), "b"

def with_more_dims():
    return ready, (torch.ones(2, 3),), ({0: "b"}, None)

pair = (ready, torch.ones(2, 3))

def wrong_pair():
    return torch.ones(2, 3), ready

def nothing():
    return None

def broken():
    raise RuntimeError("no weights here")
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current folder and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write_module(code: str) -> str:
        name = f"written_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    yield write_module
    for name in set(sys.modules) - known:
        if name.startswith("written_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["with_tensor", "with_tuple", "with_keywords", "with_dims", "pair"])
def test_a_function_brings_module_and_examples(name: str, write: Write) -> None:
    source = resolve(f"{write(CODE)}:{name}")
    assert source.name == name
    assert source.module(*source.args, **source.kwargs).shape == (2, 2)


def test_dynamic_shapes_come_with_the_examples(write: Write) -> None:
    assert resolve(f"{write(CODE)}:with_dims").dynamic_shapes == {"input": {0: "batch"}}


@pytest.mark.parametrize("inputs", [None, torch.ones(4, 3), {"input": torch.ones(4, 3)}])
def test_dynamic_shapes_as_a_tuple(inputs: Any, write: Write) -> None:
    assert resolve(f"{write(CODE)}:with_tuple_dims", inputs).dynamic_shapes == {"input": {0: "b"}}


@pytest.mark.parametrize(
    ("name", "said"),
    [("with_text_dims", "is the text 'b'"), ("with_more_dims", "2 entries, and the call has 1 inputs")],
)
def test_dynamic_shapes_of_no_form(name: str, said: str, write: Write) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        resolve(f"{write(CODE)}:{name}", torch.ones(4, 3))
    assert "dynamic_shapes={'input'" in str(caught.value.fix)


def test_the_small_models_are_named_like_any_other() -> None:
    source = resolve("ingot.models.structured:mirror")
    assert [dim.__name__ for dim in source.dynamic_shapes["y"].values()] == ["batch", "2*length + 1"]
    assert len(source.args) == 2


@pytest.mark.parametrize("name", ["ready", "Linear"])
def test_a_module_or_a_class_takes_examples_from_the_caller(name: str, write: Write) -> None:
    reference = f"{write(CODE)}:{name}"
    source = resolve(reference, torch.ones(4, 3))
    assert source.module(*source.args).shape == (4, 2)
    with pytest.raises(UsageError) as caught:
        resolve(reference)
    assert f"ingot compile {reference} --inputs inputs.npz" in str(caught.value)


def test_the_callers_examples_win(write: Write) -> None:
    x = torch.zeros(5, 3)
    assert resolve(f"{write(CODE)}:with_tensor", x).args == (x,)


def test_a_callable_works_without_a_name() -> None:
    module = torch.nn.Linear(3, 2)
    source = resolve(lambda: (module, torch.ones(2, 3)))
    assert source.module is module


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wiht_tensor", "did you mean with_tensor"),
        ("zzz", "did you mean Linear, Needs, ready"),
        ("number", "of type int"),
        ("nothing", "gave a NoneType"),
        ("wrong_pair", "gave a tuple of Tensor, Linear"),
        ("Needs", "def build(): return Needs"),
    ],
)
def test_a_name_that_gives_no_model(name: str, said: str, write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(f"{write(CODE)}:{name}")
    assert said in str(caught.value)


def test_a_module_alone_is_no_name(write: Write) -> None:
    name = write(CODE)
    with pytest.raises(UsageError) as caught:
        import_name(name)
    assert f"{name}:NAME" in str(caught.value)


def test_a_module_that_does_not_exist_suggests_one_nearby(write: Write) -> None:
    name = write(CODE)
    with pytest.raises(UsageError) as caught:
        resolve(f"{name[:-1]}:ready")
    assert f"did you mean {name}" in str(caught.value)


def test_a_function_that_raises_is_shown_with_its_line(write: Write) -> None:
    with pytest.raises(SourceError) as caught:
        resolve(f"{write(CODE)}:broken")
    assert "RuntimeError: no weights here" in str(caught.value)
    assert str(caught.value.where).endswith('raise RuntimeError("no weights here")')


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        ("1 / 0", "ZeroDivisionError", "1 / 0"),
        ("def (", "SyntaxError", "def ("),
        ("import sys\nsys.exit(3)", "SystemExit: 3", "sys.exit(3)"),
        ("import absent_package_of_mine", "absent_package_of_mine", "import absent_package_of_mine"),
    ],
)
def test_a_module_that_cannot_be_imported(code: str, said: str, line: str, write: Write) -> None:
    with pytest.raises(SourceError) as caught:
        resolve(f"{write(code)}:x")
    assert said in caught.value.what
    assert str(caught.value.where).endswith(line)
