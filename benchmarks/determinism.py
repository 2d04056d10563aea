"""Two compiles of one model, as unlike as two people's: the same bytes but for record.json."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks import minilm
from benchmarks.harness import Bar, Benchmark, Result, Table
from benchmarks.processes import run

RECORD = "record.json"

COMPILE = """
import sys, time
shift, now = int(sys.argv[1]), time.time
time.time = lambda: now() + shift
from ingot.cli.main import main
sys.argv = ["ingot", "compile", *sys.argv[2:], "--quiet"]
main()
"""
"""The command in a process whose clock, as Python tells it, is some seconds late."""

OTHER_DAY_SECONDS = 40 * 24 * 3600 + 12_345


def compile_elsewhere(folder: Path, home: Path, *, clock_seconds: int, hash_seed: str, zone: str) -> Path:
    """Compiles a copy of the model in a folder of its own, from another working directory, at another time."""
    model = home / "models" / folder.name
    shutil.copytree(folder, model)
    path = home / "out.ingot"
    env = {"PYTHONHASHSEED": hash_seed, "TZ": zone, "PYTHONPATH": _import_path()}
    run([sys.executable, "-c", COMPILE, str(clock_seconds), str(model), "-o", str(path)], cwd=home, env=env)
    return path


def _import_path() -> str:
    """Where this process found Ingot, for one that starts elsewhere."""
    import ingot

    return str(Path(ingot.__file__).parent.parent)


def differences(one: Path, other: Path) -> dict[str, str]:
    """By member's name, what differs between two files read as plain zips: bytes, place, or presence."""
    found = {}
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        for name in sorted({*left.namelist(), *right.namelist()} - {RECORD}):
            if name not in left.namelist() or name not in right.namelist():
                found[name] = "is in one of them only"
                continue
            a, b = left.getinfo(name), right.getinfo(name)
            if (a.header_offset, a.date_time, a.extra) != (b.header_offset, b.date_time, b.extra):
                found[name] = "lies elsewhere or has another date"
            elif _digest(left, name) != _digest(right, name):
                found[name] = "holds other bytes"
    return found


def _digest(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def run_both() -> Result:
    folder = minilm.folder()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(prefix="ein Ordner-") as second:
        one = compile_elsewhere(folder, Path(first), clock_seconds=0, hash_seed="1", zone="UTC")
        other = compile_elsewhere(
            folder, Path(second), clock_seconds=OTHER_DAY_SECONDS, hash_seed="2", zone="Asia/Tokyo"
        )
        different = differences(one, other)
        with zipfile.ZipFile(one) as archive:
            count = len(archive.namelist()) - 1
    rows = [*different.items()] or [(f"{count} members", "the same bytes at the same place")]
    note = "other process, folder, clock, time zone and hash seed; record.json is left out"
    return Result([Table("two compiles of MiniLM", ("member", ""), rows, note)], {"determinism": len(different)})


BENCHMARK = Benchmark("determinism", (Bar("determinism", "most", 0.0),), run_both)
