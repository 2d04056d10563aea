"""Writes everything up to the builder's call into a folder, with a script that finishes the job on the target."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ingot.backends.tensorrt.build import Prepared
from ingot.backends.tensorrt.child.parse import GRAPH, SPEC, WEIGHTS
from ingot.backends.tensorrt.finish import BUILD, HEADER, LIST, MEMBERS, digest
from ingot.backends.tensorrt.stage import write_part
from ingot.errors import UsageError
from ingot.file import atomic
from ingot.file.header import Header
from ingot.file.write import Part

_FINISH = '''"""Builds the plan on this machine, packs the engine file and holds it to its self-test vectors."""

import sys
from pathlib import Path

from ingot.backends.tensorrt.finish import main

sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
'''

_README = """{name}: everything that a build for {target} needs but {distribution} and its GPU.

On the machine that is to run the engine:

    pip install 'ingot-compiler[{extra}]=={version}'
    python finish.py [OUTPUT]

It builds the plan, writes {name}.ingot beside it (or OUTPUT), and holds the engine to the compile's self-test vectors.

    build/graph.onnx    the lowered graph; build/weights.bin its weights, as ONNX external data
    build/spec.json     precision is in the graph; here are the profiles, the architectures and the plugins
    header.json         the engine file's header without its members
    members/            the other members of the engine file, self-test vectors among them
    members.json        their order, and the digest of every file
"""


def check_folder(folder: Path) -> None:
    """Raises UsageError where nothing can be emitted into `folder`: ask before work that takes long."""
    if folder.is_dir():
        atomic.destination(folder / HEADER)
    elif folder.is_symlink() or folder.exists():
        raise UsageError(f"'{folder}' is not a folder", fix=f"--emit {folder}-2")
    else:
        try:
            folder.mkdir()
            folder.rmdir()
        except OSError as error:
            raise atomic.cannot_write(folder.parent, error) from error
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"the folder '{folder}' is not empty", fix=f"--emit {folder}-2")


def emit(prepared: Prepared, folder: Path, header: Header, parts: Sequence[Part]) -> None:
    """`header` and `parts` are what the engine file gets besides this target: its other targets, the self-test vectors,
    the tokenizer. `prepared` is what TensorRtBuilder.prepare gave; its folder may go afterwards.

    Raises UsageError as `check_folder` does, IngotError where there is no room; then nothing is left.
    """
    check_folder(folder)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        _write(prepared, folder, header, parts)
    except BaseException as error:
        _remove(folder, with_itself=made)
        if isinstance(error, OSError):
            raise atomic.cannot_write(folder, error) from error
        raise


def _write(prepared: Prepared, folder: Path, header: Header, parts: Sequence[Part]) -> None:
    plugins = [part.name for part in prepared.parts]
    for name in (GRAPH, WEIGHTS, SPEC, *plugins):
        _copy(prepared.staged.folder / name, folder / BUILD / name)
    for part in parts:
        write_part(part, folder / MEMBERS)
    (folder / HEADER).write_text(json.dumps(header.to_json(), indent=1), encoding="utf-8")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    listed = {
        "members": [part.name for part in parts],
        "plugins": plugins,
        "sha256": {name: digest(folder / name) for name in files},
    }
    (folder / LIST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    flavour = prepared.flavour
    (folder / "finish.py").write_text(_FINISH, encoding="utf-8")
    readme = _README.format(
        name=header.name,
        target=flavour.name,
        distribution=flavour.distribution,
        extra=flavour.extra,
        version=header.versions.get("ingot", ""),
    )
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def _copy(source: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _remove(folder: Path, *, with_itself: bool) -> None:
    if with_itself:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
