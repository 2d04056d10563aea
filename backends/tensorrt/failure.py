"""Turns how a build's child ended into one error that says what failed, where in the user's code, and what to try."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.backends.tensorrt import log
from ingot.backends.tensorrt.child.parse import LOG, NO_ROOM, OUTPUT, RESULT
from ingot.backends.tensorrt.child.process import MEMORY_GB, TIMEOUT_S, Outcome
from ingot.backends.tensorrt.flavours import Flavour
from ingot.errors import BuildError

SIGNALS: Mapping[int, str] = {
    signal.SIGABRT: "aborted itself (SIGABRT)",
    signal.SIGSEGV: "touched memory that is not its own (SIGSEGV)",
    signal.SIGBUS: "read a file that was cut short under it (SIGBUS)",
    signal.SIGFPE: "divided by zero (SIGFPE)",
    signal.SIGILL: "ran an instruction that this processor lacks (SIGILL)",
    signal.SIGKILL: "was killed by the system (SIGKILL), most likely for lack of memory",
    signal.SIGTERM: "was told to end (SIGTERM)",
}

_LESS_MEMORY = f"smaller upper bounds of the dims, a machine with more memory, or {MEMORY_GB}=N where there is more"

SCRATCH = ".ingot-build-"
"""What the names of temporary folders begin with."""

_SHOWN, _FEW = 6, 3
_NO_MEMORY = re.compile(r"out of memory|OutOfMemory|bad_alloc|MEM_ALLOC|[Cc]ould not allocate|std::length_error")


def with_piece(error: BuildError, script: Path, nodes: Sequence[str], where: Mapping[str, str]) -> BuildError:
    """The error, and where the smallest piece that fails lies and came from."""
    places = list(dict.fromkeys(where[node] for node in nodes if where.get(node)))
    shown = error.where or ("; ".join(places) if len(places) <= _FEW else None)
    fix = f"python {script} shows it with the smallest piece that fails ({_nodes(len(nodes))})"
    return BuildError(error.what, where=shown, fix=f"{error.fix}; {fix}" if error.fix else fix)


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def read_result(folder: Path) -> dict[str, Any] | None:
    """What the child wrote last; None where it did not get there."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return result


def home_of(folder: Path) -> Path:
    """The folder that people know of: where a build's own, which is gone when they read of it, lies."""
    return next(
        above for above in (folder, *folder.parents) if not any(part.startswith(SCRATCH) for part in above.parts)
    )


def failure(flavour: Flavour, outcome: Outcome, folder: Path, where: Mapping[str, str]) -> BuildError:
    """`where` maps the name of a node of the graph to its place in the user's code."""
    if outcome.stopped == "time":
        fix = f"{TIMEOUT_S}={max(60, round(outcome.seconds * 4))}, or smaller upper bounds of the dims"
        took = f"{outcome.seconds:.{0 if outcome.seconds >= 1 else 2}f} s"
        return _error(f"{flavour.name} did not finish in {took} and was stopped", folder, where, fix)
    if outcome.stopped == "memory":
        what = f"{flavour.name} was stopped at {_gb(outcome.peak_bytes)} of memory; it may have"
        return _error(f"{what} {_gb(outcome.memory_limit_bytes)} here", folder, where, _LESS_MEMORY)
    if outcome.code == NO_ROOM:
        home = str(home_of(folder))
        fix = f"free space in '{home}', or write to another disk"
        return BuildError(f"there is no room for {flavour.name}'s plan; nothing was written", where=home, fix=fix)
    result = read_result(folder)
    if result is not None and "error" in result:
        return _said(flavour, result["error"], folder, where, outcome)
    if outcome.code < 0:
        how = SIGNALS.get(-outcome.code, f"died of signal {-outcome.code}")
        fix = _LESS_MEMORY if -outcome.code == signal.SIGKILL or _memory_in(folder) else _smallest(flavour)
        return _error(f"{flavour.name} {how} while building; this process is unharmed", folder, where, fix)
    how = f"ended with exit code {outcome.code} and without a result"
    return _error(f"{flavour.name} {how}", folder, where, _smallest(flavour))


def _said(
    flavour: Flavour, error: Mapping[str, Any], folder: Path, where: Mapping[str, str], outcome: Outcome
) -> BuildError:
    kind, items = error["kind"], error["items"]
    texts = list(dict.fromkeys(_item(item) for item in items))
    nodes = [item["node"] for item in items if item.get("node")]
    if kind == "module":
        return BuildError(
            f"{flavour.name} does not start here: {'; '.join(texts)}",
            fix=f"pip install 'ingot-compiler[{flavour.extra}]', or --emit DIR and finish on a machine that has it",
        )
    if kind == "memory" or _memory_in(folder):
        what = f"{flavour.name} ran out of memory (it held {_gb(outcome.peak_bytes)})"
        return _error(what, folder, where, _LESS_MEMORY, texts, nodes)
    if kind == "parse":
        fix = "another operator in the model's code, on the line named"
        return _error(f"{flavour.name}'s parser refuses the graph", folder, where, fix, texts, nodes)
    if kind == "audit":
        fix = "report it with the model: the lowering is to keep the parser from this"
        return _error(f"{flavour.name}'s parser made another network of the graph", folder, where, fix, texts, nodes)
    if kind == "exception":
        texts += [items[0]["trace"].strip().splitlines()[-1]] if not texts else []
        return _error(f"the build for {flavour.name} failed in Python", folder, where, None, texts, nodes)
    return _error(f"{flavour.name}'s builder refuses the network", folder, where, _smallest(flavour), texts, nodes)


def _error(
    what: str,
    folder: Path,
    where: Mapping[str, str],
    fix: str | None,
    texts: Sequence[str] | None = None,
    nodes: Sequence[str] = (),
) -> BuildError:
    said = list(texts if texts is not None else last_words(folder))
    shown = [f"\n  {text}" for text in said[:_SHOWN]]
    if len(said) > _SHOWN:
        shown.append(f"\n  and {len(said) - _SHOWN} more")
    named = [*nodes, *_named(said, where)]
    places = list(dict.fromkeys(where[node] for node in named if where.get(node)))
    return BuildError(f"{what}{':' if shown else ''}{''.join(shown)}", where="; ".join(places[:_FEW]) or None, fix=fix)


def _item(item: Mapping[str, Any]) -> str:
    said = " ".join(str(item["message"]).split())
    text = log.readable(said) or said
    return f"{item['operator']} {item['node']}: {text}" if item.get("node") else text


def last_words(folder: Path) -> list[str]:
    """The last errors of the log and what the process printed as it died."""
    return [*log.errors(folder / LOG)[-3:], *printed(folder / OUTPUT)[-3:]]


def printed(output: Path) -> list[str]:
    """The lines that a process printed, without the list of its threads where it died."""
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    threads = next((index for index, line in enumerate(lines) if line.startswith(_FAULTHANDLER)), len(lines))
    return [line.strip() for line in lines[:threads] if line.strip()]


_FAULTHANDLER = ("Fatal Python error", "Current thread", "Thread 0x", "Extension modules:")


def _named(texts: Sequence[str], where: Mapping[str, str]) -> list[str]:
    """The graph's nodes that messages speak of, quoted or in brackets."""
    quoted = [
        name
        for text in texts
        for name in re.findall(r"'([^']+)'|\[ONNX Layer: ([^\]]+)\]|\{ForeignNode\[([^\]]+)", text)
    ]
    names = [part for groups in quoted for group in groups for part in group.split("...")]
    return [name for name in names if name in where]


def _memory_in(folder: Path) -> bool:
    return any(_NO_MEMORY.search(text) for text in last_words(folder))


def _smallest(flavour: Flavour) -> str:
    return f"the same written with other operators, or another target than {flavour.name}"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 10**8 else f"{size_bytes / 1e6:.0f} MB"
