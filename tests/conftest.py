"""Builds the namespace `ingot` from this checkout, so that tests never run a stale install; one seed for the whole run.

INGOT_TEST_INSTALLED=1 tests the installed wheel instead. INGOT_SEED=n replays a run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
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


if os.environ.get("INGOT_TEST_INSTALLED") != "1":
    checkout = str(link_checkout())
    sys.path.insert(0, checkout)
    os.environ["PYTHONPATH"] = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])

os.environ.setdefault("INGOT_SEED", str(secrets.randbelow(2**31)))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_report_header() -> str:
    return f"INGOT_SEED={os.environ['INGOT_SEED']}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of its own for each test, derived from INGOT_SEED and the test's name."""
    import zlib

    return (int(os.environ["INGOT_SEED"]) + zlib.crc32(request.node.nodeid.encode())) % 2**31
