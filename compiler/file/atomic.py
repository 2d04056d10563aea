"""Files that appear whole or not at all: written under a temporary name in a folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import stat
from pathlib import Path

from ingot.errors import IngotError, UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)

# Leaves room for what is put around it below the 255 bytes of a file's name.
_SHOWN_BYTES = 200

_COPY_BYTES = 4 << 20


def temporary(folder: Path, name: str) -> Path:
    """A path in `folder` that nothing has yet, and that tells people what it would have become."""
    shown = os.fsdecode(os.fsencode(name.replace("/", "_").replace("\0", "_"))[:_SHOWN_BYTES])
    return folder / f".{shown}-{secrets.token_hex(4)}.tmp"


def create(path: Path) -> int:
    """A descriptor of a new file, to write and read, with the permissions that the umask leaves."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cannot_write(path.parent, error) from error


def write_at(descriptor: int, data: bytes | memoryview, offset: int, path: Path) -> None:
    """Raises IngotError where the disk is full; `path` is what the descriptor was opened as."""
    view = memoryview(data).cast("B")
    while view:
        try:
            written = os.pwrite(descriptor, view, offset)
        except OSError as error:
            raise cannot_write(path.parent, error) from error
        view = view[written:]
        offset += written


def publish(temporary_path: Path, descriptor: int, path: Path) -> Path:
    """Renames a written file to `path`, flushed to the disk first; gives the path that it got, symlinks followed.

    Raises UsageError or IngotError where that cannot be; the temporary file is then still there.
    """
    target = destination(path)
    _flush(descriptor, temporary_path)
    try:
        os.replace(temporary_path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise cannot_write(target.parent, error) from error
        copy(descriptor, target)
        temporary_path.unlink()
    else:
        _flush_folder(target.parent)
    return target


def copy(source: int, path: Path) -> None:
    """A copy of an open file at `path`, whole or not at all.

    Raises UsageError where `source` cannot be read, IngotError where it changed its size meanwhile.
    """
    target = destination(path)
    beside = temporary(target.parent, target.name)
    descriptor = -1
    try:
        descriptor = create(beside)
        size_bytes = os.fstat(source).st_size
        position = 0
        while position <= size_bytes and (data := _read(source, position)):
            write_at(descriptor, data, position, target)
            position += len(data)
        if position != size_bytes:
            raise IngotError(
                f"the file that is to be copied had {size_bytes} bytes, and is another size now; nothing was written",
                where=str(path),
                fix="write it again",
            )
        _flush(descriptor, target)
        try:
            os.replace(beside, target)
        except OSError as error:
            raise cannot_write(target.parent, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    _flush_folder(target.parent)


def destination(path: Path, example: str = "model.ingot") -> Path:
    """Where a file for `path` goes: a symlink stays and what it points to is replaced. `example` is a name to suggest.

    Raises UsageError where `path` is a folder, a device or a pipe (a rename would put a file in its place), and where
    its folder is not there or cannot be written: ask before work that takes long.
    """
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"'{path}' is a folder", fix=f"name a file: {path / example}")
        if not stat.S_ISREG(mode):
            raise UsageError(f"'{path}' is not a file but a device, pipe or socket", fix=f"name a file: {example}")
    refused = _refused(target.parent)
    if refused:
        raise cannot_write(target.parent if path.is_symlink() else path.parent, OSError(refused, ""))
    return target


def cannot_write(folder: Path, error: OSError) -> IngotError:
    """What the system's refusal to write into `folder` means for the one who named it."""
    reason = os.strerror(error.errno or 0)
    if error.errno in _NO_ROOM:
        return IngotError(
            f"there is no room for the file ({reason}); nothing was written",
            where=str(folder),
            fix=f"free space in '{folder}', or write to another disk",
        )
    if error.errno == errno.ENOENT:
        return UsageError(f"there is no folder '{folder}'", fix=f"mkdir -p {shlex.quote(str(folder))}")
    if error.errno == errno.ENOTDIR:
        return UsageError(f"'{folder}' is not a folder", fix="write to a folder")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError("the file's name is too long", where=str(folder), fix="a shorter name")
    if error.errno in _NOT_ALLOWED:
        return UsageError(f"the folder '{folder}' cannot be written ({reason})", fix="write to another folder")
    return IngotError(f"the file cannot be written ({reason})", where=str(folder), fix="write to another disk")


def cannot_read(error: OSError) -> UsageError:
    """What the system's refusal to read the engine file that is to be copied means."""
    return UsageError(
        f"the engine file that is to be copied cannot be read ({os.strerror(error.errno or 0)})", fix="ls -l FILE"
    )


def _refused(folder: Path) -> int:
    """The error that making a file in `folder` would end with; 0 where nothing is known to be in its way."""
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        return error.errno or 0
    if not stat.S_ISDIR(mode):
        return errno.ENOTDIR
    return 0 if os.access(folder, os.W_OK | os.X_OK, effective_ids=True) else errno.EACCES


def _read(descriptor: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, _COPY_BYTES, offset)
    except OSError as error:
        raise cannot_read(error) from error


def _flush(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise cannot_write(path.parent, error) from error


def _flush_folder(folder: Path) -> None:
    """So that the new name outlives a power cut. Some file systems refuse; the file is there all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
