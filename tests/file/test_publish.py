"""Where an engine file cannot be written: what people are told, what was there before, and that nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingot.errors import IngotError, UsageError
from ingot.file import atomic
from ingot.file.read import EngineFile
from ingot.file.write import Draft, Part, copy_engine

NOBODY = 65534

Names = Callable[[], list[str]]


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """The kernel then refuses to write further, as it does where a disk is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may not write to; root, whom permissions do not bind, becomes nobody for the test."""
    folder = Path(tempfile.mkdtemp(prefix="ingot-"))
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        folder.parent.stat()
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_publish_replaces_what_was_there(makes: Any, left_behind: Names) -> None:
    path = makes.write(run=1)
    with EngineFile.open(path) as old:
        makes.write(run=2)
        assert old.record() == {"run": 1}
        assert old.read("weights.bin") == b"".join(makes.parts[0].chunks())
        assert not old.in_place()
    with EngineFile.open(path) as new:
        assert new.record() == {"run": 2}
        assert new.in_place()
    assert not left_behind()


def test_publish_to_another_disk(makes: Any, left_behind: Names) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == makes.folder.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    folder = Path(tempfile.mkdtemp(dir=other))
    try:
        with Draft(folder, "tiny", makes.header, makes.parts) as draft:
            expected = draft.path.read_bytes()
            draft.publish(makes.folder / "x.ingot")
        assert (makes.folder / "x.ingot").read_bytes() == expected
        assert not os.listdir(folder)
        assert not left_behind()
    finally:
        shutil.rmtree(folder)


def test_a_symlink_stays_and_its_target_is_replaced(makes: Any) -> None:
    makes.write("real.ingot", run=1)
    link = makes.folder / "link.ingot"
    link.symlink_to("real.ingot")
    makes.write("link.ingot", run=2)
    assert link.is_symlink()
    assert EngineFile.open(makes.folder / "real.ingot").record() == {"run": 2}


def test_no_folder(makes: Any, left_behind: Names) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere") as caught:
        Draft(makes.folder / "nowhere", "tiny", makes.header, makes.parts)
    assert caught.value.fix == f"mkdir -p {makes.folder / 'nowhere'}"
    with pytest.raises(UsageError) as caught:
        Draft(makes.folder / "it's", "tiny", makes.header, makes.parts)
    assert shlex.split(caught.value.fix or "") == ["mkdir", "-p", str(makes.folder / "it's")]
    draft = Draft(makes.folder, "tiny", makes.header, makes.parts)
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        draft.publish(makes.folder / "nowhere" / "x.ingot")
    assert not left_behind()


def test_a_file_where_a_folder_should_be(makes: Any) -> None:
    (makes.folder / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        Draft(makes.folder / "file", "tiny", makes.header, makes.parts)


def test_the_target_is_a_folder(makes: Any, left_behind: Names) -> None:
    (makes.folder / "out").mkdir()
    draft = Draft(makes.folder, "tiny", makes.header, makes.parts)
    with pytest.raises(UsageError, match="is a folder") as caught:
        draft.publish(makes.folder / "out")
    assert "model.ingot" in str(caught.value.fix)
    assert not left_behind()


def test_a_pipe_or_device_is_not_replaced(makes: Any, left_behind: Names) -> None:
    os.mkfifo(makes.folder / "pipe")
    for target in (makes.folder / "pipe", Path("/dev/null")):
        mode = target.stat().st_mode
        with pytest.raises(UsageError, match="device, pipe or socket"):
            Draft(makes.folder, "tiny", makes.header, makes.parts).publish(target)
        assert target.stat().st_mode == mode
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert not left_behind()


def test_a_name_that_is_too_long(makes: Any, left_behind: Names) -> None:
    with pytest.raises(UsageError, match="name is too long"):
        Draft(makes.folder, "tiny", makes.header, makes.parts).publish(makes.folder / ("x" * 300))
    assert not left_behind()


@pytest.mark.parametrize("limit", [0, 100_000, 262_144, 262_600], ids=["first byte", "header", "weights", "record"])
def test_a_full_disk(makes: Any, left_behind: Names, limit: int) -> None:
    path = makes.write(run=1)
    before = path.read_bytes()
    with file_size_limit(limit), pytest.raises(IngotError, match="no room") as caught:
        makes.write(run=2)
    assert caught.value.exit_code == 1
    assert caught.value.where == str(makes.folder)
    assert path.read_bytes() == before
    assert not left_behind()


def test_a_disk_that_fills_with_the_record(makes: Any, left_behind: Names) -> None:
    with Draft(makes.folder, "tiny", makes.header, makes.parts) as draft:
        size = draft.path.stat().st_size
        with file_size_limit(size + 100), pytest.raises(IngotError, match="no room"):
            draft.finish({"long": "x" * 10_000})
    assert not left_behind()


def test_a_read_only_folder(makes: Any, read_only: Path) -> None:
    assert not os.access(read_only, os.W_OK, effective_ids=True)
    with pytest.raises(UsageError, match="cannot be written"):
        Draft(read_only, "tiny", makes.header, makes.parts)
    assert not os.listdir(read_only)


def test_publish_into_a_read_only_folder(makes: Any, read_only: Path) -> None:
    own = Path(tempfile.mkdtemp(prefix="ingot-"))
    try:
        draft = Draft(own, "tiny", makes.header, makes.parts)
        with pytest.raises(UsageError, match=re.escape(str(read_only))):
            draft.publish(read_only / "x.ingot")
        assert not os.listdir(own)
        assert not os.listdir(read_only)
    finally:
        shutil.rmtree(own)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, ""), OSError(errno.EROFS, ""), KeyboardInterrupt()])
def test_whatever_stops_publish_leaves_the_old_file(
    makes: Any, left_behind: Names, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = makes.write(run=1)
    before = path.read_bytes()
    draft = Draft(makes.folder, "tiny", makes.header, makes.parts)

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fails)
    with pytest.raises((IngotError, KeyboardInterrupt)):
        draft.publish(path)
    assert path.read_bytes() == before
    assert not left_behind()


def test_a_signal_at_any_line_of_publish_leaves_a_whole_file(makes: Any, left_behind: Names) -> None:
    path = makes.write(run=1)
    found = []
    for stop in range(1, 20):
        lines = 0

        def interrupts(frame: Any, event: str, _: object, stop: int = stop) -> Any:
            nonlocal lines
            if frame.f_code is not Draft.publish.__code__:
                return None
            lines += event == "line"
            if event == "line" and lines == stop:
                raise KeyboardInterrupt
            return interrupts

        draft = Draft(makes.folder, "tiny", makes.header, makes.parts)
        draft.finish({"run": 2})
        tracer = sys.gettrace()
        with contextlib.suppress(KeyboardInterrupt), draft:
            sys.settrace(interrupts)
            try:
                draft.publish(path)
            finally:
                sys.settrace(tracer)
        with EngineFile.open(path, strict=True) as file:
            found.append(file.record()["run"])
        assert not left_behind()
        if lines < stop:
            break
    assert len(found) > 4
    assert found == sorted(found)
    assert set(found) == {1, 2}


def test_everything_is_on_the_disk_before_the_name_is(makes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for call in ("fsync", "replace"):
        real = getattr(os, call)

        def noted(*args: Any, call: str = call, real: Callable[..., None] = real) -> None:
            order.append("folder" if call == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else call)
            real(*args)

        monkeypatch.setattr(os, call, noted)
    makes.write()
    assert order == ["fsync", "replace", "folder"]


def test_copy_gives_the_same_bytes(makes: Any, seed: int) -> None:
    path = makes.write(parts=makes.with_large_weights(seed), run=1)
    copy_engine(path, makes.folder / "copy.ingot")
    assert (makes.folder / "copy.ingot").read_bytes() == path.read_bytes()
    copy_engine(path, path)
    EngineFile.open(path, strict=True).close()


def test_copy_of_an_open_file_is_of_the_file_that_was_opened(makes: Any) -> None:
    path = makes.write(run=1)
    with EngineFile.open(path) as file:
        makes.write(run=2)
        copy_engine(file.fileno(), makes.folder / "copy.ingot")
    assert EngineFile.open(makes.folder / "copy.ingot").record() == {"run": 1}


def test_copy_that_fails_leaves_nothing(makes: Any, left_behind: Names) -> None:
    path = makes.write()
    with pytest.raises(UsageError, match="cannot be read"):
        copy_engine(makes.folder / "missing", makes.folder / "copy.ingot")
    with pytest.raises(UsageError, match="cannot be read"):
        copy_engine(makes.folder, makes.folder / "copy.ingot")
    with pytest.raises(UsageError, match="there is no folder"):
        copy_engine(path, makes.folder / "nowhere" / "copy.ingot")
    with file_size_limit(1000), pytest.raises(IngotError, match="no room"):
        copy_engine(path, makes.folder / "copy.ingot")
    assert not (makes.folder / "copy.ingot").exists()
    assert not left_behind()


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_copy_refuses_a_file_that_changes_its_size(
    makes: Any, left_behind: Names, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    path = makes.write()
    size_bytes, read = path.stat().st_size, atomic._read

    def changes(descriptor: int, offset: int) -> bytes:
        os.truncate(path, size_bytes + change)
        return read(descriptor, offset)

    monkeypatch.setattr(atomic, "_read", changes)
    with pytest.raises(IngotError, match="another size now"):
        copy_engine(path, makes.folder / "copy.ingot")
    assert not (makes.folder / "copy.ingot").exists()
    assert not left_behind()


def test_two_writers_of_one_name(makes: Any, left_behind: Names) -> None:
    """Each has its own temporary file; the later rename wins, whole."""
    path = makes.folder / "x.ingot"
    other = [Part.of("weights.bin", b"other"), *makes.parts[1:]]
    with (
        Draft(makes.folder, "x.ingot", makes.header, makes.parts) as first,
        Draft(makes.folder, "x.ingot", makes.header._replace(name="second"), other) as second,
    ):
        first.publish(path)
        second.publish(path)
    assert EngineFile.open(path, strict=True).header.name == "second"
    assert not left_behind()
