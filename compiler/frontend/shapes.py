"""The text of `--shape`: names, bounds and fixed sizes of the inputs' axes, `input_ids=batch:1..64,sequence:1..512`.

SHAPES  one or more INPUT=AXIS,AXIS,…   separated by `,` or `;`, or the option repeated
AXIS    3                               a fixed size
        batch                           any size
        batch:1..64   batch:2..   batch:..64
        2*length+1                      a size that follows from another axis; the bounds stand at `length` alone
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import UsageError
from ingot.signature import Linear

EXAMPLE = "--shape input_ids=batch:1..64,sequence:1..512"

_INPUT = re.compile(r"^[A-Za-z_]\w*(\.\w+)*$")
_SIZE = re.compile(r"^\d+$")
_AXIS = re.compile(r"^(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)(?:\s*([+-])\s*(\d+))?\s*(?::\s*(\d*)\s*\.\.\s*(\d*))?$")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The sizes that a dim may take, both ends included; None where nothing was said."""

    low: int | None = None
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Shapes:
    """What `--shape` says. `axes` gives each named input's axes: a fixed size, or a dim; `bounds` is by dim name."""

    axes: Mapping[str, tuple[int | Linear, ...]]
    bounds: Mapping[str, Bounds]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the text and where it begins, for errors that point."""

    text: str
    start: int
    whole: str

    def error(self, what: str, *, at: int = 0, fix: str = EXAMPLE) -> UsageError:
        # Aligned under the text, which IngotError puts behind "  where: ".
        pointer = " " * (len("  where: ") + self.start + at) + "^"
        return UsageError(f"--shape: {what}", where=f"{self.whole}\n{pointer}", fix=fix)


def parse_shapes(texts: str | Sequence[str]) -> Shapes:
    """Reads one `--shape` or several. Raises UsageError that points at the character where it stops making sense."""
    axes: dict[str, list[int | Linear]] = {}
    bounds: dict[str, Bounds] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        current = None
        for piece in _pieces(text):
            if "=" in piece.text:
                name, piece = _input_name(piece)
                if name in axes:
                    raise piece.error(f"the axes of '{name}' are given twice")
                current = axes.setdefault(name, [])
            if current is None:
                fix = f"--shape x={text.strip() or 'batch,3'}"
                raise piece.error("the name of an input and '=' come first", fix=fix)
            current.append(_axis(piece, bounds))
    _check_scaled(axes, bounds)
    return Shapes({name: tuple(given) for name, given in axes.items()}, bounds)


def _pieces(text: str) -> Iterator[_Piece]:
    start = 0
    for part in re.split("[,;]", text):
        inner = part.strip()
        yield _Piece(inner, start + (part.index(inner) if inner else 0), text)
        start += len(part) + 1


def _input_name(piece: _Piece) -> tuple[str, _Piece]:
    left, _, right = piece.text.partition("=")
    if not _INPUT.match(left.strip()):
        raise piece.error(f"'{left.strip()}' is not the name of an input")
    at = len(left) + 1 + len(right) - len(right.lstrip())
    return left.strip(), _Piece(right.strip(), piece.start + at, piece.whole)


def _axis(piece: _Piece, bounds: dict[str, Bounds]) -> int | Linear:
    if not piece.text:
        raise piece.error("an axis is missing here")
    if _SIZE.match(piece.text):
        if int(piece.text) < 1:
            raise piece.error("a size is at least 1")
        return int(piece.text)
    match = _AXIS.match(piece.text)
    if match is None:
        kinds = "a size (3), a name (batch), or a name and bounds (batch:1..64)"
        raise piece.error(f"'{piece.text}' is not an axis: {kinds}")
    scale, name, sign, offset, low, high = match.groups()
    if keyword.iskeyword(name):
        raise piece.error(f"'{name}' is a word of Python and cannot name a dim", at=match.start(2))
    axis = Linear(name, int(scale or 1), int(offset or 0) * (-1 if sign == "-" else 1))
    if axis.scale < 1:
        raise piece.error("a dim is multiplied by at least 1", at=match.start(1))
    known = bounds.setdefault(name, Bounds())
    if low is None and high is None:
        return axis
    if axis != Linear(name):
        raise piece.error(
            f"bounds stand at '{name}' alone, not at a size that follows from it",
            at=piece.text.index(":"),
            fix=f"--shape a={name}:{low}..{high},b={piece.text.partition(':')[0].strip()}",
        )
    given = Bounds(int(low) if low else None, int(high) if high else None)
    _check_bounds(piece, match, given)
    if known not in (Bounds(), given):
        fix = f"{name} alone, once its bounds are given"
        raise piece.error(f"'{name}' has other bounds further in front", at=match.start(5), fix=fix)
    bounds[name] = given
    return axis


def _check_bounds(piece: _Piece, match: re.Match[str], given: Bounds) -> None:
    name = match.group(2)
    if given == Bounds():
        raise piece.error(f"'{piece.text}' gives no bound", at=match.start(5), fix=f"{name}:1..64, or {name} alone")
    if given.low == 0 or given.high == 0:
        raise piece.error("a size is at least 1", at=match.start(5 if given.low == 0 else 6))
    if given.low is not None and given.high is not None and given.low >= given.high:
        one = given.low == given.high
        raise piece.error(
            f"'{name}' has one size only" if one else f"{given.low} is more than {given.high}",
            at=match.start(5),
            fix=f"a fixed size is written as it is: {given.low}" if one else f"{name}:{given.high}..{given.low}",
        )


def _check_scaled(axes: Mapping[str, Sequence[int | Linear]], bounds: dict[str, Bounds]) -> None:
    """A dim is at least so large that no axis which follows from it is empty: n-1 makes n at least 2."""
    for given in axes.values():
        for axis in given:
            if isinstance(axis, int) or axis.size(1) >= 1:
                continue
            least = -((axis.offset - 1) // axis.scale)
            known = bounds[axis.dim]
            if (known.low or least) < least or (known.high or least + 1) <= least:
                raise UsageError(
                    f"--shape: a size that follows from '{axis.dim}' is at least 1 from {axis.dim}={least} on",
                    fix=f"{axis.dim}:{least}..",
                )
            bounds[axis.dim] = Bounds(max(least, known.low or 1), known.high)
