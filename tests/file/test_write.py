"""What is written can be read, is the same each time, and is never half there."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from ingot.errors import CompileError, FormatError
from ingot.file.header import Target
from ingot.file.layout import FIRST_MEMBER_OFFSET, HEADER, HEADER_BYTES, HEADER_OFFSET, RECORD
from ingot.file.read import EngineFile
from ingot.file.write import Draft, Part


def test_what_is_written_is_read(makes: Any) -> None:
    path = makes.write(accuracy={"worst_db": 118.5})
    with EngineFile.open(path, strict=True) as file:
        assert {name: file.read(name) for name in file.header.members} == {
            part.name: b"".join(part.chunks()) for part in makes.parts
        }
        assert file.record() == {"accuracy": {"worst_db": 118.5}}
        assert file.header._replace(members={}) == makes.header
        assert file.path == str(path)
        assert file.real_path == os.path.realpath(path)


def test_a_large_member_has_digests_and_is_read_whole(makes: Any, seed: int) -> None:
    parts = makes.with_large_weights(seed)
    with EngineFile.open(makes.write(parts=parts), strict=True) as file:
        assert list(file.header.members)[:2] == ["weights.bin", "weights.bin.sha256"]
        assert file.header.members["weights.bin.sha256"].size_bytes == 3 * 32
        assert file.read("weights.bin") == b"".join(parts[0].chunks())


def test_members_lie_where_mappings_want_them(makes: Any, seed: int) -> None:
    parts = [*makes.parts, Part.of("second.bin", np.random.default_rng(seed).bytes(5 << 20))]
    members = EngineFile.open(makes.write(parts=parts)).header.members
    assert next(iter(members.values())).offset == FIRST_MEMBER_OFFSET
    assert all(member.offset % 64 == 0 for member in members.values())
    assert members["second.bin"].offset % 4096 == 0


def test_other_zip_readers_agree(makes: Any, seed: int) -> None:
    parts = makes.with_large_weights(seed)
    path = makes.write(parts=parts, seed=7)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0] == HEADER
        assert names[-1] == RECORD
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read(HEADER)) == EngineFile.open(path).header.to_json()
        assert json.loads(archive.read(RECORD))["record"] == {"seed": 7}
        for part in parts:
            assert archive.read(part.name) == b"".join(part.chunks())


@pytest.mark.skipif(which("unzip") is None, reason="unzip is not installed")
def test_unzip_reads_it(makes: Any, seed: int) -> None:
    path = makes.write(parts=makes.with_large_weights(seed))
    tested = subprocess.run(["unzip", "-t", path], capture_output=True, text=True, check=True)
    assert "No errors detected" in tested.stdout
    assert not tested.stderr
    listed = subprocess.run(["unzip", "-l", path], capture_output=True, text=True, check=True)
    assert "cpu/graph.onnx" in listed.stdout
    header = subprocess.run(["unzip", "-p", path, HEADER], capture_output=True, check=True).stdout
    assert json.loads(header)["name"] == "tiny"


@pytest.mark.parametrize("size", [0, 1, 300, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 8 << 20])
@pytest.mark.parametrize("piece", [1 << 20, (4 << 20) + 5, 1 << 30], ids=["1 MiB", "4 MiB and 5", "whole"])
def test_any_size_in_any_pieces(makes: Any, seed: int, size: int, piece: int) -> None:
    """Around the size of a chunk; pieces smaller and larger than one."""
    data = np.random.default_rng(seed).bytes(size)
    pieces = Part("weights.bin", size, lambda: (data[start : start + piece] for start in range(0, size, piece)))
    with EngineFile.open(makes.write(parts=[pieces, *makes.parts[1:]]), strict=True) as file:
        assert file.read("weights.bin") == data


def test_pieces_may_be_views_of_arrays(makes: Any, seed: int) -> None:
    array = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float32)
    part = Part("weights.bin", array.nbytes, lambda: (array.data, array[:0].data, b""))
    with EngineFile.open(makes.write(parts=[part, *makes.parts[1:]])) as file:
        assert file.read("weights.bin") == array.tobytes()


def test_an_engine_without_parts(makes: Any) -> None:
    bare = makes.header._replace(targets=(Target("cpu", {}, {}),), text=None, selftest=None)
    with EngineFile.open(replace(makes, header=bare, parts=[]).write(), strict=True) as file:
        assert not file.header.members


def test_same_parts_same_bytes_but_the_record(makes: Any, seed: int) -> None:
    parts = makes.with_large_weights(seed)
    first, second = makes.write("a.ingot", parts=parts, seconds=1.5), makes.write("b.ingot", parts=parts, seconds=22.25)
    a, b = first.read_bytes(), second.read_bytes()
    assert a != b
    with EngineFile.open(first) as one, EngineFile.open(second) as two:
        assert one.header == two.header
        end = max(member.offset + member.size_bytes for member in one.header.members.values())
    assert a[:end] == b[:end]
    assert makes.write("c.ingot", parts=parts, seconds=1.5).read_bytes() == a


def test_a_draft_is_readable_at_once_and_finished_again(makes: Any) -> None:
    with Draft(makes.folder, "tiny", makes.header, makes.parts) as draft:
        assert EngineFile.open(draft.path).record() == {}
        assert list(draft.header.members) == [part.name for part in makes.parts]
        draft.finish({"long": "x" * 5000})
        assert EngineFile.open(draft.path).record() == {"long": "x" * 5000}
        draft.finish({"short": 1})
        assert EngineFile.open(draft.path, strict=True).record() == {"short": 1}


def test_no_part_is_held_in_memory(makes: Any) -> None:
    size, piece = 96 << 20, bytes(1 << 20)
    part = Part("weights.bin", size, lambda: (piece for _ in range(size // len(piece))))
    tracemalloc.start()
    try:
        Draft(makes.folder, "tiny", makes.header, [part, *makes.parts[1:]]).discard()
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_permissions_are_what_the_umask_leaves(makes: Any) -> None:
    old = os.umask(0o027)
    try:
        path = makes.write()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_draft_that_was_left_is_gone(
    makes: Any, left_behind: Callable[[], list[str]], error: type[BaseException]
) -> None:
    draft = Draft(makes.folder, "tiny", makes.header, makes.parts)
    assert left_behind() == [draft.path.name]
    with pytest.raises(error), draft:
        raise error
    assert not left_behind()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_part_that_raises_leaves_nothing(
    makes: Any, left_behind: Callable[[], list[str]], error: type[BaseException]
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 1000
        raise error

    with pytest.raises(error):
        Draft(makes.folder, "tiny", makes.header, [Part("weights.bin", 2000, chunks), *makes.parts[1:]])
    assert not left_behind()


@pytest.mark.parametrize("given", [0, 299, 301, 9 << 20])
def test_a_part_of_another_size_than_it_said(makes: Any, left_behind: Callable[[], list[str]], given: int) -> None:
    part = Part("weights.bin", 300, lambda: (bytes(given),))
    with pytest.raises(CompileError, match=r"weights\.bin.*300"):
        Draft(makes.folder, "tiny", makes.header, [part, *makes.parts[1:]])
    assert not left_behind()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.bin", "two members 'weights.bin'"),
        ("header.json", "two members 'header.json'"),
        ("record.json", "two members 'record.json'"),
        ("../up", "name is '../up'"),
        ("/abs", "name is '/abs'"),
        ("a//b", "name is"),
        ("a\\b", "name is"),
        ("", "name is ''"),
        ("é", "name is"),
        ("a" * 256, "name is"),
    ],
)
def test_names_that_no_member_may_have(makes: Any, left_behind: Callable[[], list[str]], name: str, said: str) -> None:
    with pytest.raises(FormatError, match=re.escape(said)):
        Draft(makes.folder, "tiny", makes.header, [*makes.parts, Part.of(name, b"")])
    assert not left_behind()


def test_a_header_that_outgrows_its_place(makes: Any, left_behind: Callable[[], list[str]]) -> None:
    text = makes.header.text._replace(prompts={"query": "x" * HEADER_BYTES})
    with pytest.raises(CompileError, match="has room for"):
        Draft(makes.folder, "tiny", makes.header._replace(text=text), makes.parts)
    assert not left_behind()


def test_a_header_that_names_no_member(makes: Any) -> None:
    with pytest.raises(FormatError, match=r"self-test is the member 'selftest\.npz'"):
        Draft(makes.folder, "tiny", makes.header, makes.parts[:-1])


def test_a_record_with_nan_is_no_json(makes: Any, left_behind: Callable[[], list[str]]) -> None:
    with (
        pytest.raises(ValueError, match="JSON compliant"),
        Draft(makes.folder, "t", makes.header, makes.parts) as draft,
    ):
        draft.finish({"sqnr_db": float("nan")})
    assert not left_behind()


@pytest.mark.parametrize("name", ["org/model", "x" * 4000, "é" * 200, "new\nline", ".."])
def test_any_name_of_a_model_gives_a_temporary_name(makes: Any, name: str) -> None:
    with Draft(makes.folder, name, makes.header, makes.parts) as draft:
        assert draft.path.parent == makes.folder
        EngineFile.open(draft.path).close()


def test_killed_in_the_middle_leaves_no_engine(makes: Any) -> None:
    """SIGKILL while the weights are being written over an older engine: that one stays as it was."""
    path = makes.write()
    before = path.read_bytes()
    script = textwrap.dedent(f"""
        import itertools, sys, time
        from pathlib import Path
        from ingot.file.read import EngineFile
        from ingot.file.write import Draft, Part

        def chunks():
            for index in itertools.count():
                if index == 3:
                    print("writing", flush=True)
                    time.sleep(60)
                yield bytes(4 << 20)

        path = Path({str(path)!r})
        header = EngineFile.open(path).header
        parts = [Part("weights.bin", 1 << 30, chunks)]
        parts += [Part.of(name, b"") for name in header.members if name != "weights.bin"]
        Draft(path.parent, path.name, header, parts).publish(path)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == before
    assert [name for name in os.listdir(makes.folder) if not name.startswith(".")] == [path.name]


def test_header_data_lie_at_the_fixed_place(makes: Any) -> None:
    data = makes.write().read_bytes()
    assert data[HEADER_OFFSET : HEADER_OFFSET + 1] == b"{"
    assert data[HEADER_OFFSET + HEADER_BYTES : HEADER_OFFSET + HEADER_BYTES + 4] == b"PK\x03\x04"


def test_the_path_of_a_published_draft(makes: Any) -> None:
    with Draft(makes.folder, "tiny", makes.header, makes.parts) as draft:
        draft.publish(makes.folder / "x.ingot")
        assert draft.path == Path(os.path.realpath(makes.folder / "x.ingot"))
    assert draft.path.exists()
