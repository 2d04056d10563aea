"""How commands print: aligned columns, and JSON with --json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click


def print_table(rows: Sequence[Sequence[object]], headers: Sequence[str] = (), *, indent: str = "") -> None:
    """Numbers to the right, everything else to the left; the last column is not padded."""
    table = [[_text(cell) for cell in row] for row in rows]
    numeric = (
        [all(isinstance(row[column], int | float) for row in rows) for column in range(len(rows[0]))] if rows else []
    )
    lines = [list(headers), *table] if headers and rows else table
    widths = [max(len(line[column]) for line in lines) for column in range(len(numeric))]
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo((indent + "  ".join(cells)).rstrip())


def print_json(data: object) -> None:
    """One document on stdout; NaN and infinities, which JSON lacks, as null."""
    click.echo(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False))


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {str(key): _finite(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(item) for item in data]
    return data
