"""Where everything lies in an engine file, byte for byte: a zip64 of stored members without any freedom.

Writer and reader both compute it from the members' names and sizes, so that a reader compares instead of interpreting.
docs/file-format.md says the same in words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

HEADER, RECORD = "header.json", "record.json"

HEADER_OFFSET = 64
HEADER_BYTES = 257_984
"""header.json is filled up with spaces to this size, so that a header of any length leaves all else in its place."""

FIRST_MEMBER_OFFSET = 262_144
"""Where the data of the first part begins. Graphs name their weights by place, so weights are the first part."""

PAGE, LINE = 4096, 64
LARGE_BYTES = 65_536
"""Members from here on begin at a page, to be mapped; smaller ones at a cache line."""

CHUNK_BYTES = 4 << 20
"""Of a member larger than this each chunk has a digest of its own; the list of them is a member too."""

DIGESTS_SUFFIX = ".sha256"

_ZIP64_FROM = 0xFFFF_FFFF
_PADDING_ID, _ZIP64_ID = 0x4950, 0x0001
_DOS_DATE = 0x0021  # 1 January 1980: a zip must name a day

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<IIQI")
_UTF8 = 0x0800


@dataclass(frozen=True, slots=True)
class Place:
    """One member: `start` is the offset of its local header, `offset` that of its data."""

    name: str
    start: int
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes

    @property
    def large(self) -> bool:
        return self.size_bytes >= _ZIP64_FROM


def places(members: Sequence[tuple[str, int]]) -> list[Place]:
    """The members of a file in their order, header.json first, from (name, size) of the parts after it."""
    laid = [Place(HEADER, 0, HEADER_OFFSET, HEADER_BYTES)]
    for name, size_bytes in members:
        laid.append(place_after(laid[-1], name, size_bytes))
    return laid


def place_after(last: Place, name: str, size_bytes: int) -> Place:
    start = last.end
    if last.name == HEADER and name != RECORD:
        return Place(name, start, FIRST_MEMBER_OFFSET, size_bytes)
    large = size_bytes >= _ZIP64_FROM
    least = start + _LOCAL.size + len(name.encode()) + 4 + (20 if large else 0)
    unit = PAGE if size_bytes >= LARGE_BYTES else LINE
    return Place(name, start, -(-least // unit) * unit, size_bytes)


def local_header(place: Place, crc: int) -> bytes:
    """Everything from `place.start` to the data; the padding is zero bytes in an extra field."""
    name = place.name.encode()
    extra = b""
    size = place.size_bytes
    if place.large:
        extra = struct.pack("<HHQQ", _ZIP64_ID, 16, size, size)
        size = _ZIP64_FROM
    missing = place.offset - place.start - _LOCAL.size - len(name) - len(extra) - 4
    extra += struct.pack("<HH", _PADDING_ID, missing) + bytes(missing)
    version = 45 if place.large else 20
    fields = (0x04034B50, version, _UTF8, 0, 0, _DOS_DATE, crc, size, size, len(name), len(extra))
    return _LOCAL.pack(*fields) + name + extra


def central_directory(members: Sequence[tuple[Place, int]]) -> bytes:
    """What follows the last member: one entry for each (place, crc), and the end records."""
    entries = b"".join(_central_entry(place, crc) for place, crc in members)
    start, count = members[-1][0].end, len(members)
    tail = b""
    if start + len(entries) >= _ZIP64_FROM:
        at = start + len(entries)
        tail = _END64.pack(0x06064B50, 44, 45, 45, 0, 0, count, count, len(entries), start)
        tail += _LOCATOR64.pack(0x07064B50, 0, at, 1)
    shown = min(start, _ZIP64_FROM)
    return entries + tail + _END.pack(0x06054B50, 0, 0, count, count, len(entries), shown, 0)


def _central_entry(place: Place, crc: int) -> bytes:
    name = place.name.encode()
    wide = b""
    size, start = place.size_bytes, place.start
    if place.large:
        wide += struct.pack("<QQ", size, size)
        size = _ZIP64_FROM
    if start >= _ZIP64_FROM:
        wide += struct.pack("<Q", start)
        start = _ZIP64_FROM
    extra = struct.pack("<HH", _ZIP64_ID, len(wide)) + wide if wide else b""
    version = 45 if wide else 20
    fields = (0x02014B50, version, version, _UTF8, 0, 0, _DOS_DATE, crc, size, size, len(name), len(extra), 0, 0, 0, 0)
    return _CENTRAL.pack(*fields, start) + name + extra


def crc_offset(members: Sequence[Place], index: int) -> int:
    """Where the checksum of member `index` stands, counted from the start of the central directory."""
    return sum(len(_central_entry(place, 0)) for place in members[:index]) + 16


def crc_in_local(header: bytes) -> int:
    return int.from_bytes(header[14:18], "little")


def name_is_safe(name: str) -> bool:
    """A relative path without "..", separators of another system, or control characters, 200 bytes at most."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and name.isprintable()
    return plain and not set(name) & set('\\:*?"<>|') and len(name.encode()) <= 200
