"""What this machine is: architecture, CPU features, and how many threads a session should use."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from ingot.errors import UsageError

MOST_THREADS = 1024
"""More than any processor has cores: a number above it is a slip, and so many threads would take the machine down."""


class Machine(NamedTuple):
    """`system` as in "linux", `arch` as in "x86_64"; `features` in the kernel's own spelling ("avx2", "amx_bf16")."""

    system: str
    arch: str
    features: frozenset[str]


class Unmet(NamedTuple):
    """One requirement of an engine that this machine does not meet."""

    requirement: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"needs {self.requirement}, found {self.found}; try: {self.fix}"


@cache
def this_machine() -> Machine:
    return Machine(sys.platform, platform.machine().lower(), _cpu_features())


def default_threads() -> int:
    """INGOT_NUM_THREADS, or the least of affinity, cgroup quota and physical cores; at least 1."""
    asked = os.environ.get("INGOT_NUM_THREADS")
    if asked is not None:
        if not (asked.isascii() and asked.isdecimal() and len(asked) <= 9 and 1 <= int(asked) <= MOST_THREADS):
            raise UsageError(
                f"INGOT_NUM_THREADS is {asked!r}, not a count of threads up to {MOST_THREADS}",
                fix="INGOT_NUM_THREADS=2",
            )
        return int(asked)
    return _usable_cores()


def thread_limits() -> dict[str, int]:
    """What bounds the threads of a run here, each by its reason; `default_threads` is the least."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"affinity": affinity, "cgroup quota": _cgroup_quota(), "physical cores": _physical_cores()}
    return {reason: count for reason, count in found.items() if count}


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    found = next((value for name, value in _cpuinfo() if name == "model name"), "")
    return found or platform.processor() or platform.machine()


@cache
def _usable_cores() -> int:
    return max(1, min(thread_limits().values()))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _cpuinfo() -> Iterator[tuple[str, str]]:
    """Read as far as it is asked for: the kernel takes a millisecond for some cores, and there may be hundreds."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                name, _, value = line.partition(":")
                yield name.strip(), value.strip()
    except OSError:
        return


def _cpu_features() -> frozenset[str]:
    return frozenset(next((value for name, value in _cpuinfo() if name in ("flags", "Features")), "").split())


def _cgroup_quota() -> int | None:
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota.isdigit():
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(quota) > 0:
        return max(1, int(quota) // int(period))
    return None


def _physical_cores() -> int | None:
    cores: set[tuple[str, str]] = set()
    package = ""
    for name, value in _cpuinfo():
        if name == "physical id":
            package = value
        elif name == "core id":
            cores.add((package, value))
    return len(cores) or None
