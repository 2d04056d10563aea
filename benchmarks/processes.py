"""Whole processes: run, timed, and their memory watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Unmeasured

ROOT = Path(__file__).resolve().parent.parent

INGOT = (sys.executable, "-m", "ingot.cli.main")

SAMPLE_SECONDS = 0.02


def run(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """What the process wrote to stdout. Raises Unmeasured with the end of stderr where it failed."""
    result = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    _check(command, result.returncode, result.stderr)
    return result.stdout


def run_python(code: str, *arguments: str, env: Mapping[str, str] | None = None) -> Any:
    """The JSON that `code` prints in a process of its own."""
    return json.loads(run([sys.executable, "-c", code, *arguments], env=env))


def seconds(command: Sequence[str], **more: Any) -> float:
    """Of the whole process, from its start to its end."""
    began = time.perf_counter()
    run(command, **more)
    return time.perf_counter() - began


def peak_anonymous_bytes(command: Sequence[str], *, cwd: Path = ROOT) -> int:
    """The most RssAnon + RssShmem that the process and its descendants held together, looked at every 20 ms.

    Mapped files are left out: the kernel takes their pages back when it wants them. Raises Unmeasured without /proc.
    """
    if not Path("/proc/self/status").exists():
        raise Unmeasured("memory is read from /proc, which this system has not")
    peak = 0
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                peak = max(peak, sum(_anonymous_bytes(pid) for pid in _family(process.pid)))
                time.sleep(SAMPLE_SECONDS)
        finally:
            process.kill()
        assert process.stderr is not None
        _check(command, process.returncode, process.stderr.read())
    return peak


def _check(command: Sequence[str], code: int, stderr: str) -> None:
    if code != 0:
        said = [line for line in stderr.splitlines() if line.strip()]
        shown = " ".join(part if len(part) < 60 else "…" for part in command[1:])
        raise Unmeasured(f"{shown} ended with {code}: {' / '.join(said[-3:])}")


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(map(int, task.read_text().split()))
            except OSError:
                continue
    return found


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in fields)
