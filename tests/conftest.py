"""Builds the namespace `ingot` from this checkout, so that tests never run a stale install; one seed for the whole run.

INGOT_TEST_INSTALLED=1 tests the installed wheel instead. INGOT_SEED=n replays a run. INGOT_OFFLINE=1 skips what needs
real weights that are not there yet; without it they are downloaded, and that they cannot be is a failure.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("passes", "backends", "plugins", "models")


def link_checkout(root: Path = ROOT) -> Path:
    """Makes build/checkout/ingot out of links to the root folders and returns build/checkout."""
    home = root / "build" / "checkout"
    package = home / "ingot"
    wanted = {entry.name: entry for entry in (root / "compiler").iterdir() if entry.name != "__pycache__"}
    wanted |= {part: root / part for part in PARTS}
    package.mkdir(parents=True, exist_ok=True)
    if not (home / "benchmarks").is_symlink():
        with suppress(FileExistsError):
            (home / "benchmarks").symlink_to(root / "benchmarks")
    for entry in package.iterdir():
        if entry.is_symlink() and wanted.get(entry.name) == Path(os.readlink(entry)):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    for name, target in wanted.items():
        try:
            (package / name).symlink_to(target)
        except FileExistsError:
            continue
    return home


# The harness is no part of the wheel.
collect_ignore = ["benchmarks"] if os.environ.get("INGOT_TEST_INSTALLED") == "1" else []

# Stand-ins for hardware, imported by tests of several folders and by the processes that they start.
importable = [str(ROOT / "tests" / "fakes")]
if os.environ.get("INGOT_TEST_INSTALLED") != "1":
    importable.insert(0, str(link_checkout()))
sys.path[:0] = importable
os.environ["PYTHONPATH"] = os.pathsep.join([*importable, *filter(None, [os.environ.get("PYTHONPATH")])])

os.environ.setdefault("INGOT_SEED", str(secrets.randbelow(2**31)))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("INGOT_MODEL_CACHE", str(ROOT / ".model-cache"))


def pytest_report_header() -> str:
    return f"INGOT_SEED={os.environ['INGOT_SEED']}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of its own for each test, derived from INGOT_SEED and the test's name."""
    import zlib

    return (int(os.environ["INGOT_SEED"]) + zlib.crc32(request.node.nodeid.encode())) % 2**31


@pytest.fixture
def count_calls() -> Callable[[Callable[[], object]], int]:
    """How many calls a function makes, Python's and C's: work that does not depend on the machine's speed."""

    def count(function: Callable[[], object]) -> int:
        made = 0

        def see(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(see)
        try:
            function()
        finally:
            sys.setprofile(None)
        return made

    return count


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the real all-MiniLM-L6-v2, downloaded the first time."""
    from ingot.errors import SourceError
    from ingot.models.fetch import fetch

    folder = Path(os.environ["INGOT_MODEL_CACHE"]) / "minilm"
    try:
        fetch("minilm", folder)
    except SourceError as error:
        if os.environ.get("INGOT_OFFLINE") == "1":
            pytest.skip(f"INGOT_OFFLINE=1: {error}")
        raise
    return folder
