"""What is installed: lazy imports, the names people type, and the content of the wheel."""

from __future__ import annotations

import ast
import email
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import ingot

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    "compiler": "ingot",
    "passes": "ingot/passes",
    "backends": "ingot/backends",
    "plugins": "ingot/plugins",
    "models": "ingot/models",
}

BUILT_FROM = (*PACKAGES, "setup.py", "pyproject.toml", "README.md", "LICENSE")


def python(code: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_ingot_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import ingot; print(*sorted(set(sys.modules) - before))"
    added = python(code).split()
    assert "ingot" in added
    # What a module without an import of its own brings: the interpreter's typing and importlib.
    assert {name.split(".")[0] for name in added} <= {"ingot", *sys.stdlib_module_names}
    assert [name for name in added if name.startswith("ingot.")] == []


@pytest.mark.parametrize("name", ["load", "Engine", "Embedder", "check", "IngotError"])
def test_what_production_uses_imports_no_compiler(name: str) -> None:
    code = f"""
import ingot, sys
ingot.{name}
heavy = "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "click", "transformers", "tokenizers"
print(*[name for name in heavy if name in sys.modules])
"""
    assert python(code) == ""


def test_names_match_all_and_what_type_checkers_see() -> None:
    tree = ast.parse(Path(ingot.__file__).read_text(encoding="utf-8"))
    (shown,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    declared = {alias.name for node in ast.walk(shown) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared == set(ingot.__all__)
    assert dir(ingot) == sorted(ingot.__all__)
    for name in ingot.__all__:
        assert getattr(ingot, name) is not None
    assert ingot.__all__ == sorted(ingot.__all__)


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'LLM'; it has CompileError, .*load"):
        _ = ingot.LLM


def test_the_folder_is_not_a_second_package() -> None:
    result = subprocess.run([sys.executable, "-c", "import compiler"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "import ingot" in result.stderr.splitlines()[-1]


def test_types_are_shipped() -> None:
    assert (Path(ingot.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, as setuptools leaves files where it builds; where a wheel is what is tested, that one."""
    if os.environ.get("INGOT_TEST_INSTALLED") == "1":
        (tested,) = (ROOT / "dist").glob("*.whl")
        return zipfile.ZipFile(tested)
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "--wheel-dir", home, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = home.glob("*.whl")
    assert path.name == f"ingot_compiler-{ingot.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"ingot_compiler-{ingot.__version__}.dist-info/{name}").decode()


def test_the_wheel_holds_every_file_of_the_library_and_no_other(wheel: zipfile.ZipFile) -> None:
    expected = {"ingot/py.typed", "ingot/backends/cuda/kernels.txt"} | {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected


EXTRAS = {"cpu", "cuda", "tensorrt", "tensorrt-rtx", "text", "compile", "triton", "hf", "test"}


def test_the_wheel_needs_little_and_offers_extras(wheel: zipfile.ZipFile) -> None:
    told = email.message_from_string(metadata(wheel, "METADATA"))
    needs = told.get_all("Requires-Dist") or []
    assert sorted(need.partition("<")[0] for need in needs if "extra ==" not in need) == ["click", "numpy"]
    assert set(told.get_all("Provides-Extra") or []) == EXTRAS
    assert told["Requires-Python"] == ">=3.11"
    assert told["License-Expression"] == "Apache-2.0"
    assert "ingot = ingot.cli.main:main" in metadata(wheel, "entry_points.txt")
    licence = metadata(wheel, "licenses/LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_wheel_imports_where_it_is_unpacked(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import ingot, ingot.passes, ingot.plugins, ingot.backends.cpu, ingot.models; print(ingot.__file__)"
    found = python(code, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert found == str(tmp_path / "ingot" / "__init__.py")
