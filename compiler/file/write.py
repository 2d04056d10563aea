"""Writes an engine file: members streamed and hashed on the way, under a temporary name until it is published."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ingot.errors import CompileError
from ingot.file import atomic, strict_json
from ingot.file.header import Header, Member
from ingot.file.layout import (
    CHUNK_BYTES,
    FIRST_MEMBER_OFFSET,
    HEADER_BYTES,
    RECORD_LIMIT_BYTES,
    Place,
    check_names,
    closing,
    digests_bytes,
    digests_name,
    lay_out,
    record_place,
)

__all__ = ["FIRST_MEMBER_OFFSET", "Draft", "Part", "copy_engine"]

_NOT_KNOWN_YET = "0" * 64


@dataclass(frozen=True, slots=True)
class Part:
    """A member to be. `chunks()` gives exactly `size_bytes` bytes in pieces of any size; it may be called again."""

    name: str
    size_bytes: int
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @classmethod
    def of(cls, name: str, data: bytes) -> Part:
        return cls(name, len(data), lambda: (data,))


class Draft:
    """An engine file being made, under a temporary name; a context manager that discards it unless it was published.

    Written whole by the constructor, with an empty record, so that what is verified is the very file that people get.
    Same header and parts: same bytes. Memory: a chunk, whatever the parts' sizes.
    """

    def __init__(self, folder: Path, name: str, header: Header, parts: Sequence[Part]) -> None:
        """`name` is what people see of it while it is temporary; the first of `parts` lies at FIRST_MEMBER_OFFSET.

        Raises UsageError or IngotError where `folder` cannot be written or is full, CompileError where the header
        outgrows its place or a part has not the size that it said, FormatError where the header contradicts itself.
        """
        parts_of = {part.name: part for part in parts}
        sizes = list(_members(parts))
        check_names([name for name, _ in sizes])
        self._places = lay_out(sizes)
        places = {place.name: place for place in self._places[1:]}
        members = {place.name: _unhashed(place, part=place.name in parts_of) for place in places.values()}
        self.header = header._replace(members=members)
        Header.from_json(self.header.to_json())
        _header_bytes(self.header)
        self.path = atomic.temporary(folder, name)
        self._descriptor = -1
        self._published = False
        try:
            self._descriptor = atomic.create(self.path)
            for part in parts:
                members.update(self._write_part(part, places))
            self.header = header._replace(members=members)
            data = _header_bytes(self.header)
            self._header_sha256 = hashlib.sha256(data).hexdigest()
            self._crcs = [zlib.crc32(data), *(member.crc32 for member in members.values())]
            self._write(self._places[0].local_header(self._crcs[0]) + data, 0)
            self.finish({})
        except BaseException:
            self.discard()
            raise

    def finish(self, record: Mapping[str, Any]) -> None:
        """Puts `record` in place of the one before. Plain JSON: ValueError for NaN and infinities."""
        data = _record_bytes(record, self._header_sha256)
        place = record_place(self._places[-1], len(data))
        crc = zlib.crc32(data)
        end = closing([*self._places, place], [*self._crcs, crc])
        self._write(place.local_header(crc) + data + end, place.start)
        os.ftruncate(self._descriptor, place.end + len(end))

    def publish(self, path: Path) -> None:
        """Gives the file its name, replacing what is there in one step, once every byte is on the disk.

        Raises UsageError or IngotError where that cannot be; then what was at `path` is as it was, and the draft gone.
        """
        try:
            target = atomic.publish(self.path, self._descriptor, path)
        except BaseException:
            self.discard()
            raise
        # In this order: a signal in between must not have `discard` remove what was just published.
        self._published = True
        self.path = target
        self._close()

    def discard(self) -> None:
        """Removes the temporary file. Does nothing after `publish`, or again."""
        self._close()
        if not self._published:
            # Whoever removed it first, or made its folder read-only, leaves nothing to do here.
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _write_part(self, part: Part, places: Mapping[str, Place]) -> Iterator[tuple[str, Member]]:
        """Writes the part and, if it is large, the list of its chunks' digests; gives the members that came of it."""
        place = places[part.name]
        crc, digests = self._write_chunks(part, place.offset)
        self._write(place.local_header(crc), place.start)
        if part.size_bytes <= CHUNK_BYTES:
            yield part.name, Member(place.offset, part.size_bytes, crc, digests[0].hex())
            return
        listed = b"".join(digests)
        own = places[digests_name(part.name)]
        sha256, list_crc = hashlib.sha256(listed).hexdigest(), zlib.crc32(listed)
        self._write(own.local_header(list_crc) + listed, own.start)
        yield part.name, Member(place.offset, part.size_bytes, crc, sha256, own.name)
        yield own.name, Member(own.offset, own.size_bytes, list_crc, sha256)

    def _write_chunks(self, part: Part, offset: int) -> tuple[int, list[bytes]]:
        """The CRC-32 of the whole and the sha256 of each chunk, one at least."""
        digests = []
        crc = 0
        for chunk in _regroup(part):
            digests.append(hashlib.sha256(chunk).digest())
            crc = zlib.crc32(chunk, crc)
            self._write(chunk, offset)
            offset += len(chunk)
        return crc, digests or [hashlib.sha256().digest()]

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        atomic.write_at(self._descriptor, data, offset, self.path)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def copy_engine(source: Path | int, target: Path) -> None:
    """Copies an engine file, or the open file of a descriptor, to `target`, whole or not at all.

    Raises UsageError or IngotError where `source` cannot be read or `target` cannot be written.
    """
    if isinstance(source, int):
        atomic.copy(source, target)
        return
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise atomic.cannot_read(error) from error
    try:
        atomic.copy(descriptor, target)
    finally:
        os.close(descriptor)


def _members(parts: Iterable[Part]) -> Iterator[tuple[str, int]]:
    """(name, size) of every part, each large one followed by the list of its digests."""
    for part in parts:
        yield part.name, part.size_bytes
        if part.size_bytes > CHUNK_BYTES:
            yield digests_name(part.name), digests_bytes(part.size_bytes)


def _unhashed(place: Place, *, part: bool) -> Member:
    """A member as long in JSON as it will be: whether the header fits is known before anything is written."""
    digests = digests_name(place.name) if part and place.size_bytes > CHUNK_BYTES else None
    return Member(place.offset, place.size_bytes, 2**32 - 1, _NOT_KNOWN_YET, digests)


def _header_bytes(header: Header) -> bytes:
    data = strict_json.encode(header.to_json())
    if len(data) > HEADER_BYTES:
        raise CompileError(
            f"the header of engine '{header.name}' takes {len(data):,} bytes; the format has room for {HEADER_BYTES:,}",
            fix="fewer inputs and outputs, or shorter prompts",
        )
    return data.ljust(HEADER_BYTES)


def _record_bytes(record: Mapping[str, Any], header_sha256: str) -> bytes:
    """The record's own digest comes first and is over every byte behind it."""
    body = strict_json.encode({"header_sha256": header_sha256, "record": record})
    behind = b'",' + body[1:]
    data = b'{"sha256":"' + hashlib.sha256(behind).hexdigest().encode("ascii") + behind
    if len(data) > RECORD_LIMIT_BYTES:
        raise CompileError(f"the record takes {len(data):,} bytes; readers take up to {RECORD_LIMIT_BYTES:,}")
    return data


def _regroup(part: Part) -> Iterator[memoryview]:
    """The part in chunks of CHUNK_BYTES, the last one shorter; each is good until the next is asked for."""
    buffer = bytearray(min(CHUNK_BYTES, part.size_bytes))
    filled = total = 0
    for piece in part.chunks():
        if not len(piece):
            continue
        view = memoryview(piece).cast("B")
        total += len(view)
        if total > part.size_bytes:
            break
        while view:
            if not filled and len(view) >= CHUNK_BYTES:
                yield view[:CHUNK_BYTES]
                view = view[CHUNK_BYTES:]
                continue
            taken = view[: len(buffer) - filled]
            buffer[filled : filled + len(taken)] = taken
            filled += len(taken)
            view = view[len(taken) :]
            if filled == CHUNK_BYTES:
                yield memoryview(buffer)
                filled = 0
    if total != part.size_bytes:
        more = "more than " if total > part.size_bytes else ""
        raise CompileError(f"member '{part.name}' was to have {part.size_bytes} bytes and gave {more}{total}")
    if filled:
        yield memoryview(buffer)[:filled]
