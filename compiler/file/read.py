"""Reads an engine file that may come from a stranger: nothing is believed before its digest holds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import weakref
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from ingot.errors import FormatError, UsageError
from ingot.file import strict_json
from ingot.file.header import FORMAT, Header, Member
from ingot.file.kinds import kind_of
from ingot.file.layout import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    FIRST_MEMBER_OFFSET,
    HEADER,
    HEADER_BYTES,
    HEADER_OFFSET,
    RECORD,
    RECORD_LIMIT_BYTES,
    Place,
    check_names,
    closing,
    closing_bytes,
    digests_bytes,
    digests_name,
    lay_out,
    record_place,
)
from ingot.version import __version__

AGAIN = "copy or download the file again, or compile the model again"

_STRICT_THREADS = 4

_RECORD_BEGINS = b'{"sha256":"'

_SHA256_DIGITS = 2 * DIGEST_BYTES


class EngineFile:
    """An engine file that was found whole. Safe to read from many threads; a context manager.

    It stays the file that it was opened as, whatever later takes its name.
    """

    def __init__(self, path: str, descriptor: int, header: Header, record: dict[str, Any]) -> None:
        """For `open`, which owns the checks."""
        self.path = path
        self.real_path = os.path.realpath(path)
        self.header = header
        self._record = record
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        # Reentrant: a signal's handler may close what its own thread is duplicating.
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, strict: bool = False) -> EngineFile:
        """Checks the structure byte for byte and every digest; those of the chunks of large members only if `strict`.

        Raises UsageError where there is no such file, FormatError where it is not an engine file, damaged or newer.
        """
        name = os.fsdecode(path)
        descriptor, size_bytes = _open(name)
        try:
            source = _Source(name, descriptor, size_bytes)
            header, record = _read_structure(source)
            lists = {member.digests for member in header.members.values()}
            for member_name, member in header.members.items():
                if member.digests is None:
                    source.check(member_name, member, is_list=member_name in lists)
            if strict:
                _check_chunks(source, header)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(name, descriptor, header, record)

    def read(self, member: str) -> bytes:
        """The bytes of a member, its digest checked again: the file may have been written to since it was opened.

        Raises UsageError where the file has no such member, FormatError where its digest does not hold.
        """
        source = self._source()
        found = self.header.members.get(member)
        if found is None:
            has = ", ".join(self.header.members)
            raise UsageError(f"the engine file has no member '{member}'; it has {has}", where=self.path)
        if found.digests is None:
            is_list = any(other.digests == member for other in self.header.members.values())
            return source.check(member, found, is_list=is_list)
        digests = source.digests(member, found, self.header)
        return b"".join(source.chunk(member, found, index, digest) for index, digest in enumerate(digests))

    def record(self) -> dict[str, Any]:
        """What the compile measured (accuracy, timings, seeds); its own digest and the header's held."""
        return dict(self._record)

    def fileno(self) -> int:
        """The descriptor, good until `close`; its position in the file is not used."""
        return self._source().descriptor

    @contextlib.contextmanager
    def duplicate(self) -> Iterator[int]:
        """A descriptor of its own: it stays this file, though another thread closes this one and reuses its number.

        Raises UsageError where it was closed before.
        """
        with self._lock:
            descriptor = os.dup(self._source().descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def in_place(self) -> bool:
        """Whether `real_path` still is this file. A runtime that opens the weights by name must ask after it did."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.real_path), os.fstat(self._source().descriptor))
        return False

    def close(self) -> None:
        """Closing again does nothing; reading raises UsageError."""
        with self._lock:
            self._close()

    def __enter__(self) -> EngineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EngineFile {self.path}{'' if self._close.alive else ', closed'}>"

    def _source(self) -> _Source:
        if not self._close.alive:
            raise UsageError("the engine file was closed", where=self.path, fix="EngineFile.open(path) opens it again")
        return _Source(self.path, self._descriptor, 0)


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header, the structure and the record checked, no other member read: milliseconds at any size.

    Raises what `EngineFile.open` raises.
    """
    name = os.fsdecode(path)
    descriptor, size_bytes = _open(name)
    try:
        return _read_structure(_Source(name, descriptor, size_bytes))[0]
    finally:
        os.close(descriptor)


class _Source(NamedTuple):
    """An open file and its name for errors."""

    path: str
    descriptor: int
    size_bytes: int

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly so many bytes. Raises FormatError where the file ends before."""
        pieces = []
        position = offset
        while position < offset + size_bytes:
            try:
                piece = os.pread(self.descriptor, offset + size_bytes - position, position)
            except OSError as error:
                raise FormatError(
                    f"the disk cannot read the engine file ({os.strerror(error.errno or 0)})",
                    where=f"{self.path}, byte {position}",
                    fix=AGAIN,
                ) from error
            if not piece:
                self.damaged("the engine file was cut while it was being read", position)
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self, name: str, member: Member, *, is_list: bool) -> bytes:
        """A member that has one digest over its bytes."""
        data = self.read(member.offset, member.size_bytes)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            what = f"the digests of '{name.removesuffix(digests_name(''))}'" if is_list else f"member '{name}'"
            self.damaged(f"{what} is not what the header says: its sha256 differs", member.offset)
        return data

    def digests(self, name: str, member: Member, header: Header) -> list[bytes]:
        """What the chunks of a large member must be."""
        assert member.digests is not None
        listed = self.check(member.digests, header.members[member.digests], is_list=True)
        return [listed[start : start + DIGEST_BYTES] for start in range(0, len(listed), DIGEST_BYTES)]

    def chunk(self, name: str, member: Member, index: int, digest: bytes) -> bytes:
        start = index * CHUNK_BYTES
        data = self.read(member.offset + start, min(CHUNK_BYTES, member.size_bytes - start))
        if hashlib.sha256(data).digest() != digest:
            self.damaged(f"member '{name}' is not what its digests say: chunk {index} differs", member.offset + start)
        return data

    def compare(self, expected: bytes, offset: int, what: str) -> None:
        found = self.read(offset, len(expected))
        if found != expected:
            first = next(index for index, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            self.damaged(f"the engine file is damaged in {what}", offset + first)

    def damaged(self, what: str, offset: int) -> NoReturn:
        raise FormatError(what, where=f"{self.path}, byte {offset}", fix=AGAIN)


def _open(path: str) -> tuple[int, int]:
    """(descriptor, size). A pipe is not waited for, a device not woken."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            fix = f"ingot compile {path}" if os.path.exists(os.path.join(path, "config.json")) else "name a .ingot file"
            raise UsageError(f"'{path}' is a folder, not an engine file", fix=fix)
        if not stat.S_ISREG(mode):
            raise UsageError(f"'{path}' is a device, pipe or socket, not an engine file", fix="name a .ingot file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    return descriptor, os.fstat(descriptor).st_size


def _cannot_open(path: str, error: OSError | ValueError) -> UsageError:
    if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(f"there is no file {path!r}", fix="ingot compile MODEL -o model.ingot makes one")
    reason = os.strerror(error.errno or 0)
    return UsageError(f"the engine file '{path}' cannot be read ({reason})", fix=f"ls -l '{path}'")


def _read_structure(source: _Source) -> tuple[Header, dict[str, Any]]:
    """The header and the record, once all that is no member's data is what the header makes it."""
    region = source.read(0, min(source.size_bytes, FIRST_MEMBER_OFFSET))
    first = lay_out([])[0]
    data = region[HEADER_OFFSET : HEADER_OFFSET + HEADER_BYTES]
    crc = zlib.crc32(data)
    if len(data) < HEADER_BYTES or region[:HEADER_OFFSET] != first.local_header(crc):
        _refuse(source, region)
    header = _parse_header(source, data)
    places = _places(source, header)
    place = record_place(places[-1], _record_size(source, places))
    text = source.read(place.offset, place.size_bytes)
    crcs = [crc, *(member.crc32 for member in header.members.values()), zlib.crc32(text)]
    _compare(source, [*places, place], crcs)
    return header, _parse_record(source, place, text, hashlib.sha256(data).hexdigest())


def _refuse(source: _Source, region: bytes) -> NoReturn:
    """Says what the file is, as it does not begin as an engine file must."""
    kind = kind_of(region)
    if kind is not None:
        raise FormatError(kind.what, where=source.path, fix=kind.fix)
    if len(region) < HEADER_OFFSET + HEADER_BYTES:
        source.damaged("the engine file is cut off in its header", len(region))
    source.damaged("the engine file is damaged in its header: the CRC-32 differs", HEADER_OFFSET)


def _parse_header(source: _Source, data: bytes) -> Header:
    try:
        value = strict_json.decode(data.rstrip())
        written, oldest = value.get("format"), value.get("oldest_reader")
        if type(written) is not int or type(oldest) is not int or not 1 <= oldest <= written:
            raise ValueError(f"its format is {written!r:.40}, for readers from {oldest!r:.40} on")
        if oldest > FORMAT:
            _refuse_newer(source, value, written, oldest)
        header = Header.from_json(value)
        check_names(list(header.members))
    except ValueError as error:
        raise FormatError(
            f"the header is not readable: {error}", where=f"{source.path}, byte {HEADER_OFFSET}", fix=AGAIN
        ) from error
    except FormatError as error:
        raise FormatError(error.what, where=source.path, fix=error.fix or AGAIN) from error
    return header


def _refuse_newer(source: _Source, value: dict[str, Any], written: int, oldest: int) -> NoReturn:
    versions = value.get("versions")
    ingot = versions.get("ingot") if isinstance(versions, dict) else None
    writer = f", written by Ingot {ingot!s:.40}," if ingot else ""
    raise FormatError(
        f"the engine file{writer} is of format {written}, which readers of format {oldest} on understand; "
        f"this Ingot {__version__} reads up to {FORMAT}",
        fix="pip install --upgrade ingot-compiler",
    )


def _places(source: _Source, header: Header) -> list[Place]:
    """Where members must lie; raises FormatError where the header says otherwise, so nothing overlaps or is hidden."""
    places = lay_out((name, member.size_bytes) for name, member in header.members.items())
    lists = {digests_name(name): name for name, member in header.members.items() if member.digests is not None}
    above: tuple[str, Member] | None = None
    for place in places[1:]:
        member = header.members[place.name]
        whose = lists.get(place.name)
        if whose is None:
            _check_large(source, place.name, member)
        elif above is None or above[0] != whose or not _is_list_of(member, above[1]):
            raise FormatError(f"'{place.name}' is no list of digests for '{whose}'", where=source.path, fix=AGAIN)
        if member.offset != place.offset:
            raise FormatError(
                f"member '{place.name}' is said to begin at byte {member.offset}; behind the ones before it, which end "
                f"at {place.start}, that is byte {place.offset}",
                where=source.path,
                fix=AGAIN,
            )
        above = place.name, member
    return places


def _check_large(source: _Source, name: str, member: Member) -> None:
    """Large members have digests by the chunk, others do not: none is too large to be checked when the file opens."""
    expected = digests_name(name) if member.size_bytes > CHUNK_BYTES else None
    if member.digests != expected:
        raise FormatError(
            f"member '{name}' of {member.size_bytes} bytes has {member.digests!r:.80} for digests, not {expected!r}",
            where=source.path,
            fix=AGAIN,
        )


def _is_list_of(member: Member, whole: Member) -> bool:
    return (
        member.digests is None
        and member.size_bytes == digests_bytes(whole.size_bytes)
        and member.sha256 == whole.sha256
    )


def _record_size(source: _Source, places: list[Place]) -> int:
    """What is left of the file for the record."""
    taken = record_place(places[-1], 0).end + closing_bytes([HEADER, *(place.name for place in places[1:]), RECORD])
    size_bytes = source.size_bytes - taken
    if size_bytes < len(_RECORD_BEGINS) + _SHA256_DIGITS:
        source.damaged(f"the engine file is cut off: it should have more than {taken} bytes", source.size_bytes)
    if source.read(source.size_bytes - 22, 4) != b"PK\x05\x06":
        source.damaged("the engine file is cut off, or something was put behind it", source.size_bytes - 22)
    if size_bytes > RECORD_LIMIT_BYTES:
        source.damaged(f"the engine file goes on for {size_bytes} bytes behind its last member", places[-1].end)
    return size_bytes


def _compare(source: _Source, places: list[Place], crcs: list[int]) -> None:
    for place, crc in zip(places, crcs, strict=True):
        source.compare(place.local_header(crc), place.start, f"what is in front of member '{place.name}'")
    source.compare(closing(places, crcs), places[-1].end, "its central directory")


def _parse_record(source: _Source, place: Place, text: bytes, header_sha256: str) -> dict[str, Any]:
    begin, digits = len(_RECORD_BEGINS), len(_RECORD_BEGINS) + _SHA256_DIGITS
    sha256 = hashlib.sha256(text[digits:]).hexdigest()
    if text[:begin] != _RECORD_BEGINS or text[begin:digits] != sha256.encode("ascii"):
        source.damaged(f"{RECORD} is not what it says itself: its sha256 differs", place.offset)
    try:
        value = strict_json.decode(text)
        record = value["record"]
        if value.keys() != {"sha256", "header_sha256", "record"} or not isinstance(record, dict):
            raise ValueError(f"its keys are {', '.join(value)}")
    except (ValueError, KeyError) as error:
        raise FormatError(
            f"{RECORD} is not readable: {error}", where=f"{source.path}, byte {place.offset}", fix=AGAIN
        ) from error
    if value["header_sha256"] != header_sha256:
        source.damaged(f"{RECORD} belongs to another header: the sha256 differs", place.offset)
    return record


def _check_chunks(source: _Source, header: Header) -> None:
    """Every chunk of every large member. Hashing and reading both let go of the interpreter's lock."""
    # Costs milliseconds that a default load does not need.
    from concurrent.futures import ThreadPoolExecutor

    def chunks() -> Iterator[tuple[str, Member, int, bytes]]:
        for name, member in header.members.items():
            if member.digests is not None:
                for index, digest in enumerate(source.digests(name, member, header)):
                    yield name, member, index, digest

    def check(item: tuple[str, Member, int, bytes]) -> None:
        source.chunk(*item)

    threads = min(_STRICT_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(check, chunks()):
            pass
