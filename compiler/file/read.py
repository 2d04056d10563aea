"""Reads engine files: nothing in one is believed before its place and its digest are checked."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ingot.errors import FormatError, UsageError
from ingot.file.header import FORMAT, Header, Member
from ingot.file.layout import (
    CHUNK_BYTES,
    FIRST_MEMBER_OFFSET,
    HEADER,
    RECORD,
    Place,
    central_directory,
    crc_in_local,
    crc_offset,
    local_header,
    name_is_safe,
    place_after,
    places,
)

_AGAIN = "compile it again, or copy it again from where it is whole"


class EngineFile:
    """An open engine file whose structure and digests hold. `path` is as given, `real_path` without links."""

    def __init__(self, path: str, handle: int) -> None:
        """Takes over the handle. Checks header and structure; `check_members` checks what they promise."""
        self.path = path
        self.real_path = os.path.realpath(path)
        self._handle = handle
        self._finish_open()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, strict: bool = False) -> EngineFile:
        """Checks every digest but the weights'; `strict` checks those too.

        Raises UsageError where there is no such file, FormatError where it is no engine, damaged, or newer.
        """
        name = os.fspath(path)
        file = cls(name, _open(name))
        try:
            file.check_members(weights=strict)
        except BaseException:
            file.close()
            raise
        return file

    def _finish_open(self) -> None:
        try:
            self.header, text = _read_header(self._handle, self.path)
            self._header_sha256 = hashlib.sha256(text).hexdigest()
            self._record = _check_structure(self._handle, self.path, self.header)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> bytes:
        """A member's bytes, its digest checked. Raises FormatError where there is none, or the digest differs."""
        member = self.header.members.get(name)
        if member is None:
            raise FormatError(f"the engine has no member '{name}'", where=self.path, fix=_AGAIN)
        if member.digests is not None:
            self._check_chunks(name, member)
            return _read_at(self._handle, member.offset, member.size_bytes, self.path)
        data = _read_at(self._handle, member.offset, member.size_bytes, self.path)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise _damaged(name, member.offset, self.path)
        return data

    def record(self) -> dict[str, Any]:
        """What the compile measured, and how. Raises FormatError where it is damaged or belongs to another file."""
        data = _read_at(self._handle, self._record.offset, self._record.size_bytes, self.path)
        found = _json(data, self.path, self._record.offset)
        body = found.get("record") if isinstance(found, dict) else None
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256((self._header_sha256 + text).encode()).hexdigest()
        if not isinstance(body, dict) or found.get("sha256") != digest:
            raise _damaged(RECORD, self._record.offset, self.path)
        return body

    def check_members(self, *, weights: bool) -> None:
        """Raises FormatError at the first member whose bytes are not what the header says."""
        for name, member in self.header.members.items():
            if member.digests is None:
                self.read(name)
            elif weights:
                self._check_chunks(name, member)
        self.record()

    def _check_chunks(self, name: str, member: Member) -> None:
        assert member.digests is not None
        listed = self.read(member.digests)
        for index, start in enumerate(range(0, member.size_bytes, CHUNK_BYTES)):
            size = min(CHUNK_BYTES, member.size_bytes - start)
            data = _read_at(self._handle, member.offset + start, size, self.path)
            if hashlib.sha256(data).digest() != listed[32 * index : 32 * index + 32]:
                raise _damaged(name, member.offset + start, self.path)

    def close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> EngineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header alone, its checksum and the file's structure checked: a few reads whatever the file's size.

    Raises as `EngineFile.open` does.
    """
    with EngineFile(os.fspath(path), _open(os.fspath(path))) as file:
        return file.header


def _open(path: str) -> int:
    try:
        # Opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        near = sorted(Path(path).parent.glob("*.ingot")) if isinstance(error, FileNotFoundError) else []
        fix = f"there is {near[0]}" if near else "ingot compile MODEL -o model.ingot writes one"
        raise UsageError(f"cannot open '{path}': {reason}", fix=fix) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        what = "a folder" if os.path.isdir(path) else "not a file"
        raise UsageError(f"'{path}' is {what}, and an engine is one file", fix="the path of a .ingot file")
    return handle


def _read_header(handle: int, path: str) -> tuple[Header, bytes]:
    size = os.fstat(handle).st_size
    start = os.pread(handle, 4, 0)
    if start != b"PK\x03\x04":
        what = "is empty" if size == 0 else "is no engine file"
        raise FormatError(f"'{path}' {what}", fix="ingot compile MODEL -o model.ingot writes one")
    place = places(())[0]
    region = os.pread(handle, place.end, 0)
    if region[30 : 30 + len(HEADER)] != HEADER.encode():
        raise FormatError(f"'{path}' is a zip archive, but no engine file", fix="the path of a .ingot file")
    if len(region) < place.end:
        raise FormatError(f"'{path}' ends in the middle of its header, at byte {size}", fix=_AGAIN)
    text = region[place.offset :]
    crc = zlib.crc32(text)
    if region[: place.offset] != local_header(place, crc):
        raise _damaged(HEADER, 0, path)
    text = text.rstrip(b" ")
    data = _json(text, path, place.offset)
    _check_format(data, path)
    return Header.from_json(data), text


def _check_format(data: Any, path: str) -> None:
    oldest = data.get("oldest_reader") if isinstance(data, dict) else None
    if not isinstance(oldest, int):
        raise FormatError(f"'{path}' does not say its format", fix=_AGAIN)
    if oldest > FORMAT:
        raise FormatError(
            f"'{path}' is of format {data.get('format')}, and this Ingot reads up to {FORMAT}",
            fix="pip install --upgrade ingot-compiler",
        )


def _check_structure(handle: int, path: str, header: Header) -> Place:
    """Every byte between the members is what the layout says. Returns where the record lies."""
    laid = places(())
    for name, member in header.members.items():
        place = place_after(laid[-1], name, member.size_bytes)
        if not name_is_safe(name) or name in (HEADER, RECORD) or member.size_bytes < 0 or place.offset != member.offset:
            raise FormatError(f"the header puts '{name[:80]}' where it cannot lie", where=f"{path}, byte {member.offset}")
        laid.append(place)
    size = os.fstat(handle).st_size
    last = place_after(laid[-1], RECORD, 0)
    tail_bytes = len(central_directory([(place, 0) for place in [*laid, last]]))
    record = place_after(laid[-1], RECORD, size - tail_bytes - last.offset)
    if record.size_bytes <= 0 or record.offset != last.offset:
        raise FormatError(f"'{path}' ends at byte {size}, before its last member is whole", fix=_AGAIN)
    laid.append(record)
    tail = _read_at(handle, record.end, tail_bytes, path)
    crcs = [int.from_bytes(tail[at : at + 4], "little") for at in (crc_offset(laid, i) for i in range(len(laid)))]
    if tail != central_directory(list(zip(laid, crcs, strict=True))):
        raise _damaged("the zip directory", record.end, path)
    for place, crc in zip(laid, crcs, strict=True):
        found = _read_at(handle, place.start, place.offset - place.start, path)
        if crc_in_local(found) != crc or found != local_header(place, crc):
            raise _damaged(f"the local header of {place.name}", place.start, path)
    return record


def _read_at(handle: int, offset: int, size: int, path: str) -> bytes:
    return b"".join(_pieces(handle, offset, size, path)) if size > CHUNK_BYTES else _read_piece(handle, offset, size, path)


def _pieces(handle: int, offset: int, size: int, path: str) -> Iterator[bytes]:
    for start in range(0, size, CHUNK_BYTES):
        yield _read_piece(handle, offset + start, min(CHUNK_BYTES, size - start), path)


def _read_piece(handle: int, offset: int, size: int, path: str) -> bytes:
    try:
        data = os.pread(handle, size, offset)
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror}", where=f"byte {offset}", fix=_AGAIN) from error
    if len(data) < size:
        raise FormatError(f"'{path}' ends at byte {offset + len(data)}, before what its header promises", fix=_AGAIN)
    return data


def _json(text: bytes, path: str, offset: int) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not readable as JSON: {error}", where=f"{path}, byte {offset}", fix=_AGAIN) from error


def _damaged(what: str, offset: int, path: str) -> FormatError:
    return FormatError(f"'{path}' is damaged: {what} is not what it was", where=f"byte {offset}", fix=_AGAIN)
