"""Which distributions are installed, and whether versions are in ranges."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ingot.errors import FormatError
from ingot.installed import in_range, installed_version


@pytest.mark.parametrize("name", ["numpy", "onnxruntime", "click", "onnx-ir", "typing_extensions"])
def test_says_what_importlib_metadata_says(name: str) -> None:
    assert installed_version(name) == metadata.version(name)


@pytest.mark.parametrize("name", ["onnxruntim", "onnxruntime-nightly-of-nobody", ""])
def test_nothing_else_is_taken_for_it(name: str) -> None:
    assert installed_version(name) is None


def test_names_differ_in_spelling_only_where_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path)])
    for folder in ("some_thing_gpu-2.0.dist-info", "Some.Thing-1.2.3.dist-info", "old-0.1-py3.11.egg-info"):
        (tmp_path / folder).mkdir()
    assert installed_version("some-thing") == "1.2.3"
    assert installed_version("some-thing-gpu") == "2.0"
    assert installed_version("old") == "0.1"


def test_every_installed_distribution_is_found() -> None:
    for found in metadata.distributions():
        name = found.metadata["Name"]
        assert installed_version(name) == metadata.version(name), name


def test_what_is_installed_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "first-1.0.dist-info").mkdir()
    assert (installed_version("first"), installed_version("second")) == ("1.0", None)
    (tmp_path / "second-2.0.dist-info").mkdir()
    # A clock tick later, as an installation would be.
    os.utime(tmp_path, ns=(1, os.stat(tmp_path).st_mtime_ns + 1))
    assert (installed_version("first"), installed_version("second")) == ("1.0", "2.0")


@pytest.mark.parametrize(
    ("version", "range_", "holds"),
    [
        ("1.31.1", ">=1.31", True),
        ("1.31", ">=1.31.0", True),
        ("1.30.9", ">=1.31", False),
        ("1.31.1", ">=1.31,<1.32", True),
        ("1.32.0", ">=1.31,<1.32", False),
        ("1.9", ">=1.31", False),
        ("2", "==2.0", True),
        ("2.0.1", "!=2", True),
        ("1.31.0rc1", ">=1.31", True),
        ("1.31.0+cpu", "<=1.31", True),
    ],
)
def test_ranges(version: str, range_: str, holds: bool) -> None:
    assert in_range(version, range_) is holds


@pytest.mark.parametrize("range_", ["", "1.31", "~=1.31", ">=1.x", ">=1.31;<2", ">1,,<2", ">=" + "9" * 5000])
def test_what_is_no_range_is_refused(range_: str) -> None:
    with pytest.raises(FormatError):
        in_range("1.31", range_)
