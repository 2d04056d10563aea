"""Runs a child that may abort, hang or eat the memory, so that none of it reaches the process that asked."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ingot.errors import UsageError

TIMEOUT_S, MEMORY_GB, REDUCE_S = "INGOT_BUILD_TIMEOUT_S", "INGOT_BUILD_MEMORY_GB", "INGOT_BUILD_REDUCE_S"
DEFAULT_TIMEOUT_S = 3600.0
DEFAULT_REDUCE_S = 60.0
"""How long a failing build may look for the smallest piece that fails; 0: not at all."""

RESERVE_BYTES = 512 << 20
"""What is left to the rest of the machine."""

LOOK_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
_PARENT = "INGOT_BUILD_PARENT"
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall time of a child, and its own memory (mapped files aside); None: what the machine has."""

    seconds: float = DEFAULT_TIMEOUT_S
    memory_bytes: int | None = None

    @staticmethod
    def from_environment() -> Limits:
        """Raises UsageError for a value that is no positive number."""
        memory_gb = _positive(MEMORY_GB)
        return Limits(_positive(TIMEOUT_S) or DEFAULT_TIMEOUT_S, None if memory_gb is None else int(memory_gb * 1e9))


def reduce_seconds() -> float:
    """Raises UsageError for a value that is no number from 0 up."""
    return 0.0 if os.environ.get(REDUCE_S) == "0" else _positive(REDUCE_S) or DEFAULT_REDUCE_S


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended. `stopped` is why it was killed: "time", "memory", or None where it ended by itself."""

    code: int
    stopped: str | None
    seconds: float
    peak_bytes: int
    memory_limit_bytes: int


def start(module: str, arguments: Sequence[str], *, output: IO[bytes], piped: bool = False) -> subprocess.Popen[bytes]:
    """A child of its own session that runs a module of ours, with this process's own `ingot` and nothing of the
    working folder on its path."""
    import ingot

    (home, *_) = ingot.__path__
    above = str(Path(home).parent)
    paths = [above, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-m", module, *arguments],
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else output,
        stderr=output,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), _PARENT: str(os.getpid())},
        start_new_session=True,
    )


def run(module: str, arguments: Sequence[str], *, output: Path, limits: Limits) -> Outcome:
    """Waits for the child and kills it past its limits; it is gone when this returns or raises, by Ctrl-C too."""
    available = available_bytes()
    allowed = available - RESERVE_BYTES if limits.memory_bytes is None else limits.memory_bytes
    began = time.monotonic()
    stopped, peak = None, 0
    with output.open("ab") as stream:
        process = start(module, arguments, output=stream)
        try:
            while process.poll() is None:
                held = anonymous_bytes(process.pid)
                peak = max(peak, held)
                if held > allowed or (held > RESERVE_BYTES and available_bytes() < RESERVE_BYTES // 2):
                    stopped = "memory"
                elif time.monotonic() - began > limits.seconds:
                    stopped = "time"
                if stopped:
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            kill(process)
    return Outcome(process.returncode, stopped, time.monotonic() - began, peak, allowed)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a child's whole session, if it still runs, and waits for it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent() -> None:
    """Called in a child: the kernel kills it when whoever started it is gone, and before anyone else for memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
            os._exit(1)


def anonymous_bytes(pid: int) -> int:
    """What a process holds beside mapped files; 0 where it is gone, or the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in fields if line.startswith(("RssAnon:", "RssShmem:")))


def available_bytes() -> int:
    """The memory that can be had: the least of the machine's and its cgroup's; a lot where neither is told."""
    found = [1 << 50]
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    for limit_path, usage_path, stat_path, reclaimable in _CGROUPS:
        with suppress(OSError, ValueError):
            limit = int(Path(limit_path).read_text())
            usage = int(Path(usage_path).read_text())
            stat = dict(line.split() for line in Path(stat_path).read_text().splitlines())
            found.append(limit - usage + int(stat.get(reclaimable, 0)))
    return max(0, min(found))


_EXAMPLE = {TIMEOUT_S: 600, MEMORY_GB: 16, REDUCE_S: 60}


def _positive(name: str) -> float | None:
    asked = os.environ.get(name)
    if asked is None:
        return None
    try:
        value = float(asked)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{name} is {asked!r}, not a number above 0", fix=f"{name}={_EXAMPLE[name]}")
    return value
