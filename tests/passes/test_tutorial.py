"""The example in docs/passes.md works as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "passes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", TEXT, re.M | re.S)
PASS = "ingot.passes.drop_double_negation"


def block(language: str, path: str = "") -> str:
    (found,) = (code for kind, name, code in BLOCKS if (kind, name) == (language, path))
    return found


@pytest.fixture
def _tutorial_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(PASS)
    monkeypatch.setitem(sys.modules, PASS, module)
    exec(compile(block("python", "passes/drop_double_negation.py"), "docs/passes.md", "exec"), module.__dict__)


@pytest.mark.usefixtures("_tutorial_pass")
def test_its_tests_pass(rewrites, declines):
    names: dict[str, object] = {}
    exec(compile(block("python", "tests/passes/test_drop_double_negation.py"), "docs/passes.md", "exec"), names)
    tests = [
        value for name, value in names.items() if name.startswith("test_") and isinstance(value, types.FunctionType)
    ]
    assert len(tests) == 4
    for test in tests:
        argument = test.__code__.co_varnames[0]
        test({"rewrites": rewrites, "declines": declines}[argument])


@pytest.mark.usefixtures("_tutorial_pass")
def test_it_prints_what_the_text_says():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "docs/passes.md", "exec"), {})
    assert printed.getvalue().strip() == block("text").strip()


def test_what_the_text_names_exists():
    import ingot.ir.dims
    import ingot.ir.rewrite

    for name in re.findall(r"`((?:replace|add|remove|constant|all)_\w+)`", TEXT):
        assert hasattr(ingot.ir.rewrite, name), name
    assert hasattr(ingot.ir.dims, "same_dim")
    for path in ("passes", "tests/passes"):
        assert (Path(__file__).parents[2] / path).is_dir()
