"""JSON as an engine file holds it: what the writer gives, and a reader that takes nothing ambiguous or bottomless."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

DEPTH_LIMIT = 128
"""Of objects and lists inside each other. Python's stack ends at 1000 frames, and readers take several a level."""


def encode(value: Mapping[str, Any]) -> bytes:
    """ASCII on one line. Raises ValueError for NaN and infinities, which JSON does not have."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode(text: bytes) -> dict[str, Any]:
    """Raises ValueError where `text` is not one JSON object, names a key twice, or nests too deep."""
    try:
        value = json.loads(
            text.decode("ascii"), object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"it nests deeper than {DEPTH_LIMIT} levels") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    _check_depth(value)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r:.80} comes twice")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it nests deeper than {DEPTH_LIMIT} levels")
