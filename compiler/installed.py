"""Which distributions are installed here, and whether a version is in a range.

importlib.metadata says the same, but its import alone takes 60 ms, and `ingot check` must answer in milliseconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import takewhile
from operator import eq, ge, gt, le, lt, ne

from ingot.errors import FormatError

_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": ge,
    "<=": le,
    "==": eq,
    "!=": ne,
    ">": gt,
    "<": lt,
}

# A file from a stranger says the range: int() refuses thousands of digits, with an error of its own.
_MOST_DIGITS = 9
_MOST_CHARACTERS = 200


def installed_version(distribution: str) -> str | None:
    """The version that `import` would find; None where it is not installed.

    Reads the names of metadata folders on sys.path, and asks importlib.metadata where there is none of that name.
    """
    wanted = _normal(distribution)
    for folder in sys.path:
        try:
            changed = os.stat(folder or ".").st_mtime_ns
            found = _listed(folder or ".", changed).get(wanted)
        except OSError:
            continue
        if found is not None:
            return found
    return _version_by_metadata(distribution)


@lru_cache(maxsize=64)
def _listed(folder: str, changed: int) -> dict[str, str]:
    """The version of every distribution whose metadata lies in a folder that was `changed` then."""
    found: dict[str, str] = {}
    for name in os.listdir(folder):
        stem, dot, kind = name.rpartition(".")
        if dot and kind in ("dist-info", "egg-info"):
            # "name-1.2" or "name-1.2-py3.11": the version is the first part behind the name that begins with a digit.
            parts = stem.split("-")
            place = next((place for place, part in enumerate(parts) if place and part[:1].isdigit()), None)
            if place is not None:
                found.setdefault(_normal("-".join(parts[:place])), parts[place])
    return found


def in_range(version: str, range_: str) -> bool:
    """Whether "1.31.1" is in ">=1.31,<2". Only numbers are compared: 1.31.0rc1 counts as 1.31.0.

    Raises FormatError for a range that is not one.
    """
    numbers = _numbers(version)
    clauses = list(_clauses(range_))
    return all(_holds(numbers, sign, other) for sign, other in clauses)


def check_range(range_: str) -> None:
    """Raises FormatError for a range that is not one."""
    for _ in _clauses(range_):
        pass


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _clauses(range_: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """ ">=1.31,<2" as (">=", (1, 31)), ("<", (2,)). By hand: compiling a pattern would cost a millisecond."""
    for clause in range_.split(","):
        text = clause.strip(" ")
        sign = next((sign for sign in _COMPARE if text.startswith(sign)), "")
        parts = text[len(sign) :].strip(" ").split(".")
        if not sign or not all(map(_is_number, parts)) or len(range_) > _MOST_CHARACTERS:
            raise FormatError(f"'{range_:.60}' is not a range of versions like '>=1.31,<2'")
        yield sign, tuple(map(int, parts))


def _holds(numbers: tuple[int, ...], sign: str, other: tuple[int, ...]) -> bool:
    width = max(len(numbers), len(other))
    pad = (0,) * width
    return _COMPARE[sign]((numbers + pad)[:width], (other + pad)[:width])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _numbers(version: str) -> tuple[int, ...]:
    start = "".join(takewhile("0123456789.".__contains__, version))
    return tuple(map(int, takewhile(str.isdigit, start.split("."))))


def _version_by_metadata(distribution: str) -> str | None:
    if not any(not os.path.isdir(folder or ".") and os.path.exists(folder or ".") for folder in sys.path):
        return None
    # A zip on sys.path has no folders to list.
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
