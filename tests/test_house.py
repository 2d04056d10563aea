"""The rules of the house that a test can hold: which way imports point, sizes, names, opening sentences, passes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    "compiler": "ingot",
    "passes": "ingot.passes",
    "backends": "ingot.backends",
    "plugins": "ingot.plugins",
    "models": "ingot.models",
}
OTHERS = ("tests", "benchmarks", "docs")

FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 12

VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "misc", "base_utils"}

VERBS = ("fold", "fuse", "replace", "lower", "drop", "pack", "merge", "infer", "inline", "expand")

LAYERS = (
    ("errors", "version", "signature", "machine", "installed", "progress", "cuda_driver", "device"),
    ("file",),
    (
        *("backends", "backends.contract", "backends.targets", "backends.*", "backends.*.load", "backends.*.session"),
        *("backends.tensorrt.flavours", "backends.tensorrt.plugin.preload", "backends.tensorrt.plugin.host"),
        *("backends.tensorrt.plugin.fields", "backends.tensorrt.plugin.kernels"),
        *("backends.tensorrt.log", "backends.tensorrt.lane", "backends.tensorrt.messages"),
        *("plugins.declaration", "plugins.declared", "plugins.*.declaration"),
    ),
    ("runtime",),
    ("ir",),
    ("plugins",),
    ("frontend",),
    ("passes",),
    ("backends.*.build", "backends.*.*", "backends.*.*.*"),
    ("verify",),
    ("pipeline", "emit"),
    ("api",),
    ("cli",),
)
"""From what stands on nothing up to what people type; an import points down, or stays in its layer."""

PRODUCTION = 4
"""The layers up to here are what production imports."""

FORBIDDEN_IN_PRODUCTION = {
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "click",
    "transformers",
    "safetensors",
    "sentence_transformers",
}

HISTORY = re.compile(
    r"\b(no longer|previously|used to|was changed|now uses|legacy|refactor(ed)?|TODO|FIXME|HACK)\b", re.I
)

REASON = re.compile(r"# noqa: BLE001 +\w+ \w+")
"""Where everything must be caught, the line says why."""

MACHINE = re.compile(r"/(work|farm|root|home)/[a-z]|/tmp/[a-z]")

REGISTRY = re.compile(r"https?://[\w.-]*(pypi|pythonhosted|anaconda|conda-forge)[\w.-]*", re.I)


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


LIBRARY = python_files(*PACKAGES)
MEASURED = [*LIBRARY, *python_files("benchmarks", "docs"), ROOT / "setup.py"]
EVERYTHING = [*MEASURED, *python_files("tests")]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """ "passes/fold_constants.py" is ingot.passes.fold_constants."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *(part for part in rest if part != "__init__")])


MODULES = {module_of(path): path for path in LIBRARY}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below `node` but what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield child
            yield from nodes_at_run_time(child)


def imports_of(tree: ast.AST, *, lazy: bool = True) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions too unless `lazy` is false."""
    inside = set()
    if not lazy:
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        inside = {node for function in functions for node in ast.walk(function)}
    for node in nodes_at_run_time(tree):
        if node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield node.lineno, whole if whole in MODULES else node.module
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def layer_of(module: str) -> int | None:
    """Of a module of ours; None where it stands outside of the chains (the package itself, models)."""
    parts = module.split(".")[1:]
    if not parts or parts[0] == "models":
        return None
    for pattern_parts in ([*parts], [parts[0]]):
        for level, patterns in enumerate(LAYERS):
            for pattern in patterns:
                wanted = pattern.split(".")
                if len(wanted) == len(pattern_parts) and all(
                    want in ("*", part) for want, part in zip(wanted, pattern_parts, strict=True)
                ):
                    return level
    raise AssertionError(f"{module} is in no layer: name its place in LAYERS")


def upward(module: str, tree: ast.AST) -> list[str]:
    """What `module` imports from above itself."""
    level = layer_of(module)
    found = []
    for line, imported in imports_of(tree):
        if not imported.startswith("ingot."):
            continue
        other = layer_of(imported)
        if imported.startswith("ingot.models") and not module.startswith("ingot.models"):
            found.append(f"{module}:{line} imports {imported}, which is for tests, docs and benchmarks")
        elif level is not None and other is not None and other > level:
            found.append(f"{module}:{line} imports {imported}, which stands above it")
    return found


def test_imports_point_down() -> None:
    assert [text for module, path in MODULES.items() for text in upward(module, tree_of(path))] == []


def is_production(module: str) -> bool:
    level = layer_of(module)
    return module == "ingot" or (level is not None and level < PRODUCTION)


def compiler_imports(module: str, tree: ast.AST, *, lazy: bool = True) -> list[str]:
    found = []
    for line, imported in imports_of(tree, lazy=lazy):
        top = imported.split(".")[0]
        ours = layer_of(imported) if top == "ingot" else None
        if top in FORBIDDEN_IN_PRODUCTION or (ours is not None and ours >= PRODUCTION):
            found.append(f"{module}:{line} imports {imported}")
    return found


def test_production_never_imports_the_compiler_not_even_lazily() -> None:
    produced = {module: path for module, path in MODULES.items() if is_production(module)}
    assert {"ingot.runtime.engine", "ingot.file.read", "ingot.backends.cpu.load", "ingot.errors"} <= set(produced)
    assert "ingot.backends.cpu.build" not in produced
    assert [text for module, path in produced.items() for text in compiler_imports(module, tree_of(path))] == []


def test_the_api_imports_the_compiler_only_when_it_compiles() -> None:
    tree = tree_of(MODULES["ingot.api"])
    assert compiler_imports("ingot.api", tree, lazy=False) == []
    assert compiler_imports("ingot.api", tree)


def test_the_import_test_sees_a_wrong_import() -> None:
    for code in ("import ingot.pipeline", "def f():\n    from ingot.pipeline import compile_source"):
        assert upward("ingot.verify.draw", ast.parse(code))
        assert compiler_imports("ingot.runtime.engine", ast.parse(code))
    assert upward("ingot.passes.contract", ast.parse("from ingot.backends.cpu import build"))
    assert upward("ingot.runtime.engine", ast.parse("from ingot.models import llama"))
    assert compiler_imports("ingot.backends.cpu.load", ast.parse("def f():\n    import onnx.parser"))
    assert compiler_imports("ingot.runtime.open", ast.parse("import_module('torch')"))
    assert not compiler_imports("ingot.runtime.open", ast.parse("if TYPE_CHECKING:\n    import torch"))
    assert not upward("ingot.verify.verify", ast.parse("from ingot.runtime.engine import Engine"))


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_to_the_style(path: Path) -> None:
    text, tree = path.read_text(encoding="utf-8"), tree_of(path)
    found = [*_names(path), *_comments(text), *_statements(tree, text)]
    if tree.body and not ast.get_docstring(tree):
        found.append("no opening sentence")
    if path in MEASURED:
        found += _sizes(text, tree)
    if "tests" in path.relative_to(ROOT).parts:
        found += _asserts_nothing(tree)
    assert found == []


def _names(path: Path) -> Iterator[str]:
    vague = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & VAGUE
    if vague:
        yield f"a name that says nothing: {', '.join(vague)}"


def _comments(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if "#" in line and "re.compile" not in line and HISTORY.search(line.split("#", 1)[1]):
            yield f"{number}: tells history or a wish: {line.strip()}"
        if MACHINE.search(line) and "re.compile" not in line:
            yield f"{number}: a path of one machine: {line.strip()}"
        if REGISTRY.search(line):
            yield f"{number}: the host of a registry: {line.strip()}"


def _statements(tree: ast.Module, text: str) -> Iterator[str]:
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{node.lineno}: a relative import"
        if isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if everything and not raises and not REASON.search(lines[node.lineno - 1]):
                yield f"{node.lineno}: swallows every exception"


def _sizes(text: str, tree: ast.Module) -> Iterator[str]:
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            count = len(node.args.args) + len(node.args.kwonlyargs)
            if lines > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines"
            if count > PARAMETERS:
                yield f"{node.lineno}: {node.name} takes {count} parameters"


CHECKS = re.compile(r"raises|assert|check|expect|verify|unchanged|rewrites|declines|warns|fail|same|equal|match|close")


def _asserts_nothing(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            calls = (ast.unparse(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call))
            asserts = any(isinstance(inner, ast.Assert) for inner in ast.walk(node))
            if not asserts and not any(CHECKS.search(name) for name in calls):
                yield f"{node.lineno}: {node.name} asserts nothing"


def test_the_style_test_sees_what_is_wrong() -> None:
    text = "try:\n    f()\nexcept Exception:\n    pass\nfrom . import x\ndef test_f():\n    f()\n"
    wrong = ast.parse(text)
    assert len([*_statements(wrong, text), *_asserts_nothing(wrong)]) == 3
    assert len([*_comments("x = 1  # TO" + "DO\n")]) == 1
    assert len([*_sizes("\n" * 401, ast.parse("def f():\n" + "    x = 1\n" * 60))]) == 2
    assert [*_names(ROOT / "compiler" / "ir" / "utils.py")]


PASS_FILES = sorted(path for path in (ROOT / "passes").glob("*.py") if path.stem not in ("__init__", "contract"))


def pass_class(path: Path) -> ast.ClassDef:
    (found,) = (
        node
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Pass" for base in node.bases)
    )
    return found


@pytest.mark.parametrize("path", PASS_FILES, ids=lambda path: path.stem)
def test_a_pass_is_named_and_described_as_the_house_asks(path: Path) -> None:
    found = pass_class(path)
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", found.name).lower() == path.stem
    assert path.stem.split("_")[0] in VERBS
    docstring = ast.get_docstring(found) or ""
    assert "->" in docstring.splitlines()[0], "the first line is the rewrite"
    assert re.search(r"\bexact\b|\bround", docstring), "exact, or what rounding changes"


@pytest.mark.parametrize("path", PASS_FILES, ids=lambda path: path.stem)
def test_a_pass_is_tested_in_four_ways(path: Path) -> None:
    """The fixture `rewrites` holds three: that it rewrites, that numbers stay, that a second run changes nothing."""
    tests = [
        node
        for node in tree_of(ROOT / "tests" / "passes" / f"test_{path.stem}.py").body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert any(_rewrites(test) for test in tests), "no test that rewrites"
    assert any("declines" in {test.name.split("_")[1], *_fixtures(test)} for test in tests), "no test that declines"


def _fixtures(test: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in test.args.args]


def _rewrites(test: ast.FunctionDef) -> bool:
    """By the fixture, or by hand: the numbers compared, and the pass run twice."""
    by_hand = "same_numbers" in _fixtures(test) and ast.unparse(test).count("run_passes(") >= 2
    return "rewrites" in _fixtures(test) or by_hand


def test_the_fixture_of_rewrites_holds_what_is_said_of_it() -> None:
    text = (ROOT / "tests" / "passes" / "conftest.py").read_text(encoding="utf-8")
    (fixture,) = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == "rewrites"
    )
    code = ast.unparse(fixture)
    for promise in ("assert report.rewrites > 0", "same_numbers(before, after)", "assert again.rewrites == 0"):
        assert promise in code


def test_every_pass_is_in_the_pipeline() -> None:
    used = {node.id for node in ast.walk(tree_of(MODULES["ingot.pipeline"])) if isinstance(node, ast.Name)}
    assert {pass_class(path).name for path in PASS_FILES} - used == set()


@pytest.mark.parametrize("name", ["Makefile", "README.md", "CHANGELOG.md", "pyproject.toml", ".ci/run", ".gitignore"])
def test_other_files_name_no_machine_and_no_registry(name: str) -> None:
    assert [*_comments((ROOT / name).read_text(encoding="utf-8"))] == []


def test_every_folder_of_the_root_is_known() -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name}
    assert folders - {*PACKAGES, *OTHERS, ".ci"} == set()
