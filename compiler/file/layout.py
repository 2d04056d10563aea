"""Where each byte of an engine file's zip structure lies and what it is, as a function of the members' names and sizes.

docs/file-format.md is the specification. The writer writes what this module gives, the reader compares with it byte for
byte; so the structure has no freedom, and neither has to parse a zip.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ingot.errors import FormatError

PAGE_BYTES = 4096

CACHE_LINE_BYTES = 64

CHUNK_BYTES = 4 << 20
"""A member of more than this has a digest for each chunk, and begins at a page."""

HEADER, RECORD = "header.json", "record.json"
"""The first member and the last."""

HEADER_OFFSET = 128
"""Where the bytes of header.json begin, in this format and every later one."""

FIRST_MEMBER_OFFSET = 262144
"""Where the bytes of the first part begin: graphs name their weights by absolute offset."""

# The page before the first part is left to its local header, whatever its name.
HEADER_BYTES = FIRST_MEMBER_OFFSET - PAGE_BYTES - HEADER_OFFSET
"""The size of header.json, spaces behind the JSON included."""

RECORD_LIMIT_BYTES = 16 << 20

DIGEST_BYTES = 32

NAME_LIMIT_BYTES = 255

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_SIZES = struct.Struct("<2H2Q")
_SIZES_AND_START = struct.Struct("<2H3Q")
_PADDING = struct.Struct("<2H")

_VERSION = 45  # zip64
_MADE_BY = 3 << 8 | _VERSION  # Unix, so that the mode below is one
_STORED = 0
_TIME, _DATE = 0, 1 << 5 | 1  # 1 January 1980, the first day that a zip knows
_MODE = 0o100644 << 16
_ELSEWHERE16, _ELSEWHERE32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"
_ZIP64_ID = 0x0001
_PADDING_ID = 0x4749


class Place(NamedTuple):
    """A member's place: its local header at `start`, its data from `offset` to `end`."""

    name: str
    start: int
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes

    def local_header(self, crc32: int) -> bytes:
        """The bytes from `start` to `offset`, padding included."""
        name = self.name.encode("ascii")
        padding = self.offset - self.start - _local_bytes(self.name)
        return b"".join(
            (
                _LOCAL.pack(
                    *(b"PK\x03\x04", _VERSION, 0, _STORED, _TIME, _DATE, crc32, _ELSEWHERE32, _ELSEWHERE32),
                    *(len(name), _SIZES.size + _PADDING.size + padding),
                ),
                name,
                _SIZES.pack(_ZIP64_ID, _SIZES.size - 4, self.size_bytes, self.size_bytes),
                _PADDING.pack(_PADDING_ID, padding),
                bytes(padding),
            )
        )

    def central_header(self, crc32: int) -> bytes:
        name = self.name.encode("ascii")
        return b"".join(
            (
                _CENTRAL.pack(
                    *(b"PK\x01\x02", _MADE_BY, _VERSION, 0, _STORED, _TIME, _DATE, crc32, _ELSEWHERE32, _ELSEWHERE32),
                    *(len(name), _SIZES_AND_START.size, 0, 0, 0, _MODE, _ELSEWHERE32),
                ),
                name,
                _SIZES_AND_START.pack(
                    _ZIP64_ID, _SIZES_AND_START.size - 4, self.size_bytes, self.size_bytes, self.start
                ),
            )
        )


def lay_out(members: Iterable[tuple[str, int]]) -> list[Place]:
    """The places of header.json and then of each (name, size): the first and the large ones at a page, others at a
    cache line."""
    places = [Place(HEADER, 0, HEADER_OFFSET, HEADER_BYTES)]
    for name, size_bytes in members:
        first = len(places) == 1
        places.append(_after(places[-1], name, size_bytes, at_page=first or size_bytes > CHUNK_BYTES))
    return places


def record_place(last: Place, size_bytes: int) -> Place:
    """record.json comes after every other member."""
    return _after(last, RECORD, size_bytes, at_page=False)


def closing(places: Sequence[Place], crcs: Sequence[int]) -> bytes:
    """What follows the last member: the central directory and the three records that end a zip64."""
    directory = b"".join(place.central_header(crc) for place, crc in zip(places, crcs, strict=True))
    start = places[-1].end
    count = len(places)
    return b"".join(
        (
            directory,
            _END64.pack(b"PK\x06\x06", _END64.size - 12, _MADE_BY, _VERSION, 0, 0, count, count, len(directory), start),
            _LOCATOR.pack(b"PK\x06\x07", 0, start + len(directory), 1),
            _END.pack(b"PK\x05\x06", 0, 0, _ELSEWHERE16, _ELSEWHERE16, _ELSEWHERE32, _ELSEWHERE32, 0),
        )
    )


def closing_bytes(names: Iterable[str]) -> int:
    """The size of `closing`."""
    directory = sum(_CENTRAL.size + len(name) + _SIZES_AND_START.size for name in names)
    return directory + _END64.size + _LOCATOR.size + _END.size


def digests_name(name: str) -> str:
    """The member that holds the digests of a large member's chunks."""
    return f"{name}.sha256"


def digests_bytes(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_BYTES) * DIGEST_BYTES


def check_names(names: Sequence[str]) -> None:
    """Raises FormatError for a name that an unpacker could be led astray by, that is reserved, or that comes twice."""
    seen = {HEADER, RECORD}
    for name in names:
        if _NAME.fullmatch(name) is None or len(name) > NAME_LIMIT_BYTES:
            raise FormatError(
                f"a member's name is {name[:80]!r}: only letters, digits and ._- are, in parts that begin with neither "
                f"dot nor dash, '/' between them, {NAME_LIMIT_BYTES} in all"
            )
        if name in seen:
            raise FormatError(f"there are two members '{name}'")
        seen.add(name)


def _after(last: Place, name: str, size_bytes: int, *, at_page: bool) -> Place:
    alignment = PAGE_BYTES if at_page else CACHE_LINE_BYTES
    offset = last.end + _local_bytes(name)
    return Place(name, last.end, offset + -offset % alignment, size_bytes)


def _local_bytes(name: str) -> int:
    """The size of a local header before its padding."""
    return _LOCAL.size + len(name) + _SIZES.size + _PADDING.size
