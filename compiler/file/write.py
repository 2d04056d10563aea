"""Writes engine files: streamed, hashed on the way, and under their name only when they are whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ingot.errors import BuildError, UsageError
from ingot.file.header import Header, Member
from ingot.file.layout import (
    CHUNK_BYTES,
    DIGESTS_SUFFIX,
    FIRST_MEMBER_OFFSET,
    HEADER,
    HEADER_BYTES,
    RECORD,
    Place,
    central_directory,
    local_header,
    name_is_safe,
    place_after,
    places,
)

__all__ = ["FIRST_MEMBER_OFFSET", "Draft", "Part", "copy_engine"]


@dataclass(frozen=True, slots=True)
class Part:
    """One member to be written. `chunks` gives its bytes, `size_bytes` in all, each time it is called."""

    name: str
    size_bytes: int
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @classmethod
    def of(cls, name: str, data: bytes) -> Part:
        return cls(name, len(data), lambda: (data,))


class Draft:
    """An engine file being made: written under a temporary name, readable there, then published or discarded.

        with Draft(folder, name, header, parts) as draft:
            ...                          # EngineFile.open(draft.path) reads it: what is verified is what is published
            draft.finish(record)
            draft.publish(path)

    Leaving the block without publishing removes it. Raises UsageError where the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, header: Header, parts: Sequence[Part]) -> None:
        """Writes every part; `header` gets the members' places and digests."""
        for part in parts:
            if not name_is_safe(part.name) or part.name in (HEADER, RECORD):
                raise BuildError(f"a member cannot be named '{part.name}'")
        self.path = _temporary(folder, name)
        try:
            with _disk_errors(folder), open(self.path, "r+b") as stream:
                self._write(stream, header, parts)
        except BaseException:
            self.discard()
            raise

    def _write(self, stream: BinaryIO, header: Header, parts: Sequence[Part]) -> None:
        members: dict[str, Member] = {}
        self._members: list[tuple[Place, int]] = [(places(())[0], 0)]
        for part in parts:
            place = self._next(part.name, part.size_bytes)
            crc, digest, digests = _write_part(stream, place, part)
            self._members.append((place, crc))
            if len(digests) <= 1:
                members[part.name] = Member(place.offset, place.size_bytes, digest.hex())
                continue
            listed = b"".join(digests)
            list_name = part.name + DIGESTS_SUFFIX
            list_place = self._next(list_name, len(listed))
            list_crc, list_digest, _ = _write_part(stream, list_place, Part.of(list_name, listed))
            self._members.append((list_place, list_crc))
            members[part.name] = Member(place.offset, place.size_bytes, list_digest.hex(), list_name)
            members[list_name] = Member(list_place.offset, list_place.size_bytes, list_digest.hex())
        self.header = replace(header, members=members)
        text = json.dumps(self.header.to_json(), separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > HEADER_BYTES:
            raise BuildError(f"the header has {len(text)} bytes, and {HEADER_BYTES} is the most there is room for")
        self._header_sha256 = hashlib.sha256(text).hexdigest()
        text += b" " * (HEADER_BYTES - len(text))
        first = self._members[0][0]
        self._members[0] = first, zlib.crc32(text)
        stream.seek(0)
        stream.write(local_header(first, zlib.crc32(text)) + text)
        self._finish(stream, {})

    def _next(self, name: str, size_bytes: int) -> Place:
        return place_after(self._members[-1][0], name, size_bytes)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Replaces the record. It lies outside the header's digests and carries its own, and the header's."""
        with _disk_errors(self.path.parent), open(self.path, "r+b") as stream:
            self._finish(stream, record)

    def _finish(self, stream: BinaryIO, record: Mapping[str, Any]) -> None:
        body = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256((self._header_sha256 + body).encode()).hexdigest()
        text = f'{{"sha256":"{digest}","header_sha256":"{self._header_sha256}","record":{body}}}\n'.encode()
        place = self._next(RECORD, len(text))
        crc = zlib.crc32(text)
        stream.seek(place.start)
        stream.write(local_header(place, crc) + text + central_directory([*self._members, (place, crc)]))
        stream.truncate()

    def publish(self, path: Path) -> None:
        """Gives the file its name, replacing one that was there; nobody ever sees half a file under it.

        Raises UsageError where it cannot be written; what was there before is then still there.
        """
        with _disk_errors(path):
            _flush(self.path)
            try:
                os.replace(self.path, path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                copy_engine(self.path, path)
                self.discard()
            _flush_folder(path.parent)

    def discard(self) -> None:
        """Removes the file, unless it was published."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def copy_engine(source: Path, target: Path) -> None:
    """Copies a file beside `target` and renames the copy over it.

    Raises UsageError where it cannot be written; what was there before is then still there.
    """
    with _disk_errors(target):
        if target.exists() and os.path.samefile(source, target):
            return
        copy = _temporary(target.parent, target.name)
        try:
            shutil.copyfile(source, copy)
            _flush(copy)
            os.replace(copy, target)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        _flush_folder(target.parent)


def _write_part(stream: BinaryIO, place: Place, part: Part) -> tuple[int, bytes, list[bytes]]:
    """Its CRC-32, its sha256, and the sha256 of each chunk of CHUNK_BYTES."""
    stream.seek(place.offset)
    crc, written, whole, digests = 0, 0, hashlib.sha256(), []
    chunk, room = hashlib.sha256(), CHUNK_BYTES
    chunked = part.size_bytes > CHUNK_BYTES
    for piece in part.chunks():
        view = memoryview(piece).cast("B")
        stream.write(view)
        crc, written = zlib.crc32(view, crc), written + len(view)
        if not chunked:
            whole.update(view)
            continue
        while len(view):
            chunk.update(view[:room])
            view, room = view[room:], room - min(room, len(view))
            if room == 0:
                digests.append(chunk.digest())
                chunk, room = hashlib.sha256(), CHUNK_BYTES
    if written != part.size_bytes:
        raise BuildError(f"member '{part.name}' has {written} bytes, and {part.size_bytes} were announced")
    if chunked and room < CHUNK_BYTES:
        digests.append(chunk.digest())
    stream.seek(place.start)
    stream.write(local_header(place, crc))
    return crc, whole.digest(), digests


def _temporary(folder: Path, name: str) -> Path:
    with _disk_errors(folder):
        handle, path = tempfile.mkstemp(prefix=f".{name[:100]}-", suffix=".tmp", dir=folder)
        # mkstemp makes it for the owner alone; an engine is as readable as any file that one writes.
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        os.close(handle)
    return Path(path)


def _flush(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder; the rename is done all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


_FIXES = {
    errno.ENOSPC: "free space there, or write to another folder",
    errno.EDQUOT: "free space there, or write to another folder",
    errno.EFBIG: "a folder whose file system or limits (ulimit -f) allow files of that size",
    errno.ENOENT: "mkdir -p FOLDER first, or another path",
    errno.EISDIR: "a path that ends in a file name: model.ingot",
}


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fix = _FIXES.get(error.errno or 0, "another path: -o PATH, engine.save(PATH)")
        raise UsageError(f"cannot write '{path}': {reason}", fix=fix) from error
