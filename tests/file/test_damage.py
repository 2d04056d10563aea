"""Any byte that is not what was written is noticed, and so is any that is missing or too many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import FormatError
from ingot.file.layout import FIRST_MEMBER_OFFSET, HEADER_BYTES, HEADER_OFFSET
from ingot.file.read import EngineFile, read_header


def assert_noticed(
    path: Path, places: Iterable[int], rng: np.random.Generator, *, reads: Callable[[Path], object]
) -> None:
    """Each byte at `places` changed in turn, to a value drawn; the file is whole again afterwards."""
    with path.open("r+b", buffering=0) as file:
        for place in places:
            file.seek(place)
            true = file.read(1)
            file.seek(place)
            file.write(bytes([true[0] ^ int(rng.integers(1, 256))]))
            try:
                with pytest.raises(FormatError):
                    reads(path)
            except pytest.fail.Exception:
                pytest.fail(f"byte {place} was changed from {true!r} and nobody noticed")
            file.seek(place)
            file.write(true)
    reads(path)


def open_and_close(path: Path) -> None:
    EngineFile.open(path).close()


def strictly(path: Path) -> None:
    EngineFile.open(path, strict=True).close()


def test_every_byte_behind_the_header(makes: Any, seed: int) -> None:
    """Members, padding, record, central directory and end, one by one."""
    path = makes.write(seed=1)
    places = range(FIRST_MEMBER_OFFSET, path.stat().st_size)
    assert_noticed(path, places, np.random.default_rng(seed), reads=open_and_close)


def test_every_byte_of_the_first_local_header(makes: Any, seed: int) -> None:
    assert_noticed(makes.write(), range(HEADER_OFFSET), np.random.default_rng(seed), reads=open_and_close)


def test_bytes_of_the_header_and_its_padding(makes: Any, seed: int) -> None:
    """A sample of each: the JSON, the spaces behind it, the local header of the first part, the zeros in it."""
    path, rng = makes.write(), np.random.default_rng(seed)
    json_bytes = len(path.read_bytes()[HEADER_OFFSET : HEADER_OFFSET + HEADER_BYTES].rstrip())
    end, region = HEADER_OFFSET + json_bytes, HEADER_OFFSET + HEADER_BYTES
    places = [
        *rng.integers(HEADER_OFFSET, end, 300),
        *rng.integers(end, region, 60),
        *range(region, region + 70),
        *rng.integers(region + 70, FIRST_MEMBER_OFFSET, 60),
        *(end - 1, end, region - 1, FIRST_MEMBER_OFFSET - 1),
    ]
    assert_noticed(path, [int(place) for place in places], rng, reads=open_and_close)


def test_structure_and_record_are_noticed_by_the_header_alone(makes: Any, seed: int) -> None:
    """What `ingot check` reads: all that is no member's data."""
    path, rng = makes.write(seed=1), np.random.default_rng(seed)
    covered = np.zeros(path.stat().st_size, bool)
    for member in read_header(path).members.values():
        covered[member.offset : member.offset + member.size_bytes] = True
    places = np.flatnonzero(~covered)
    places = places[places >= FIRST_MEMBER_OFFSET]
    assert len(places) > 500
    assert_noticed(path, rng.choice(places, 300).tolist(), rng, reads=read_header)


def test_bytes_of_large_members_are_noticed_when_strict(makes: Any, seed: int) -> None:
    path, rng = makes.write(parts=makes.with_large_weights(seed)), np.random.default_rng(seed)
    member = read_header(path).members["weights.bin"]
    chunk = 4 << 20
    places = [0, chunk - 1, chunk, 2 * chunk, member.size_bytes - 1, *rng.integers(0, member.size_bytes, 10)]
    places = [member.offset + int(place) for place in places]
    assert_noticed(path, places, rng, reads=strictly)

    def read(path: Path) -> None:
        with EngineFile.open(path) as file:
            file.read("weights.bin")

    assert_noticed(path, places[:4], rng, reads=read)


def test_digests_of_large_members_are_checked_by_default(makes: Any, seed: int) -> None:
    path = makes.write(parts=makes.with_large_weights(seed))
    member = read_header(path).members["weights.bin.sha256"]
    places = range(member.offset, member.offset + member.size_bytes)
    assert_noticed(path, places, np.random.default_rng(seed), reads=open_and_close)


def test_the_error_names_the_byte(makes: Any) -> None:
    path = makes.write()
    member = read_header(path).members["cpu/graph.onnx"]
    data = bytearray(path.read_bytes())
    data[member.offset - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"in front of member 'cpu/graph\.onnx'") as caught:
        read_header(path)
    assert caught.value.where == f"{path}, byte {member.offset - 1}"
    data[member.offset - 1] ^= 1
    data[member.offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"member 'cpu/graph\.onnx'") as caught:
        EngineFile.open(path)
    assert caught.value.where == f"{path}, byte {member.offset}"


def test_truncated_anywhere(makes: Any, seed: int) -> None:
    path, rng = makes.write(), np.random.default_rng(seed)
    data = path.read_bytes()
    sizes = [1, 4, 30, 127, 128, 129, 258_047, 258_048, 262_143, 262_144, *range(len(data) - 100, len(data))]
    sizes += [int(size) for size in (*rng.integers(1, len(data), 40), *rng.integers(262_144, len(data), 60))]
    for size in sizes:
        path.write_bytes(data[:size])
        for reads in (read_header, open_and_close):
            with pytest.raises(FormatError):
                reads(path)


def test_truncation_is_said(makes: Any) -> None:
    path = makes.write()
    data = path.read_bytes()
    for size in (5000, 262_200, len(data) - 10):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError, match="is cut off"):
            read_header(path)


def test_anything_put_behind_or_between(makes: Any, seed: int) -> None:
    path, rng = makes.write(), np.random.default_rng(seed)
    data = path.read_bytes()
    for extra in (b"\0", b"PK", data, data[-22:], bytes(4096), bytes(17 << 20)):
        path.write_bytes(data + extra)
        with pytest.raises(FormatError):
            read_header(path)
    for _ in range(40):
        place, gone = int(rng.integers(0, len(data))), int(rng.integers(0, 3))
        path.write_bytes(data[:place] + rng.bytes(int(rng.integers(1, 65))) + data[place + gone :])
        with pytest.raises(FormatError):
            open_and_close(path)


def test_a_member_that_comes_twice(makes: Any, forge: Any) -> None:
    path = makes.write()

    def twice(value: dict[str, Any]) -> bytes:
        text = json.dumps(value)
        graph = json.dumps({"cpu/graph.onnx": value["members"]["cpu/graph.onnx"]})[1:-1]
        return text.replace('"members": {"weights.bin"', f'"members": {{{graph}, "weights.bin"').encode()

    forge(path, twice)
    with pytest.raises(FormatError, match="comes twice"):
        read_header(path)


def test_a_file_that_changes_while_it_is_open(makes: Any) -> None:
    path = makes.write()
    with EngineFile.open(path) as file:
        member = file.header.members["cpu/graph.onnx"]
        with path.open("r+b") as out:
            out.seek(member.offset)
            out.write(b"other bytes")
        with pytest.raises(FormatError, match="sha256 differs"):
            file.read("cpu/graph.onnx")
        with path.open("r+b") as out:
            out.truncate(member.offset + 3)
        with pytest.raises(FormatError, match="cut while it was being read"):
            file.read("cpu/graph.onnx")
