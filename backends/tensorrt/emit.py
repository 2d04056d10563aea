"""Writes everything up to the builder's call into a folder, with a script that finishes the job on the target."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ingot.backends.tensorrt.build import Prepared
from ingot.backends.tensorrt.finish import BUILD, HEADER, MEMBERS
from ingot.backends.tensorrt.stage import write_part
from ingot.errors import UsageError
from ingot.file.header import Header
from ingot.file.write import Part

_FINISH = '''"""Builds the plan of {name} on this machine, packs {name}.ingot and holds it to its self-test vectors."""

import sys
from pathlib import Path

from ingot.backends.tensorrt.finish import main

sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
'''

_README = """{name}: everything that a build for {target} needs but {distribution} and its GPU.

On the machine that is to run the engine:

    pip install 'ingot-compiler[{extra}]=={version}'
    python finish.py [OUTPUT]

It builds the plan, writes {name}.ingot (or OUTPUT), and holds the engine to the self-test vectors of the compile.

    build/graph.onnx    the lowered graph; build/weights.bin its weights, as ONNX external data
    build/spec.json     precision is in the graph; here are the profiles, the architectures and the plugins
    header.json         the engine file's header without its members
    members/            the other members of the engine file, self-test vectors among them; members.json their order
"""


def emit(prepared: Prepared, folder: Path, header: Header, parts: Sequence[Part]) -> None:
    """`header` and `parts` are what the engine file gets besides this target: its other targets, the self-test vectors,
    the tokenizer. `prepared` is what TensorRtBuilder.prepare gave; its folder may go afterwards.

    Raises UsageError where `folder` is there and holds anything.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"'{folder}' cannot be made a folder ({error.strerror})", fix="--emit NEW_DIR") from error
    if taken:
        raise UsageError(f"the folder '{folder}' is not empty", fix=f"--emit {folder}-2")
    _copy_tree(prepared.staged.folder, folder / BUILD)
    for part in parts:
        write_part(part, folder / MEMBERS)
    mine = [part.name for part in prepared.parts]
    (folder / f"{MEMBERS}.json").write_text(
        json.dumps({"members": [part.name for part in parts], "plugins": mine}), encoding="utf-8"
    )
    (folder / HEADER).write_text(json.dumps(header.to_json(), indent=1), encoding="utf-8")
    flavour = prepared.flavour
    (folder / "finish.py").write_text(_FINISH.format(name=header.name), encoding="utf-8")
    readme = _README.format(
        name=header.name,
        target=flavour.name,
        distribution=flavour.distribution,
        extra=flavour.extra,
        version=header.versions.get("ingot", ""),
    )
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def _copy_tree(source: Path, target: Path) -> None:
    for path in _files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copyfile(path, copy)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
