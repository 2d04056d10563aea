"""Finishes an emitted build where TensorRT and its GPU are: builds the plan, packs the engine file, tests it.

Needs Ingot's base install and the flavour's package.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingot.backends.tensorrt import product
from ingot.backends.tensorrt.child.parse import GRAPH, OUTPUT, SPEC, WEIGHTS, read_spec
from ingot.backends.tensorrt.child.process import Limits, run
from ingot.backends.tensorrt.failure import SCRATCH, failure, read_result
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.cuda_driver import this_driver
from ingot.errors import BuildError, EngineError, IngotError, RequirementError, UsageError
from ingot.file import atomic
from ingot.file.header import Header, Member, Target
from ingot.file.write import Draft, Part
from ingot.installed import installed_version

BUILD, MEMBERS, HEADER, LIST = "build", "members", "header.json", "members.json"

CHILD = "ingot.backends.tensorrt.child.build"

_USAGE = "usage: python finish.py [OUTPUT]\n\nOUTPUT is the engine file to write; by default it lies beside finish.py."
_AGAIN = "copy the whole folder again, or compile again with --emit"


def main(folder: Path, arguments: Sequence[str]) -> int:
    """The exit code; errors go to stderr as the command line shows them."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(_USAGE)
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        path = finish(folder, Path(arguments[0]) if arguments else None)
        print(f"wrote {path}")
        print(test(path, read_spec(folder / BUILD)["flavour"]))
    except IngotError as error:
        if os.environ.get("INGOT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing is left", file=sys.stderr)
        return 130
    return 0


def finish(folder: Path, output: Path | None = None) -> Path:
    """Builds the plan and writes the engine file, NAME.ingot in `folder` by default; nothing else there changes.

    Raises BuildError where TensorRT or its GPU is not here, or the build fails; UsageError where the folder is not as
    it was emitted, or the file cannot be written.
    """
    limits = Limits.from_environment()
    listed = _whole(folder)
    spec = _for_this_machine(folder / BUILD)
    header = _json(folder / HEADER)
    path = output or folder / f"{header['name']}.ingot"
    home = atomic.destination(path).parent
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=home) as scratch:
            build = Path(scratch)
            _stage(folder / BUILD, build, spec, listed["plugins"])
            _pack(folder, build, spec, header, listed, limits, path)
    except OSError as error:
        raise atomic.cannot_write(home, error) from error
    return path


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _whole(folder: Path) -> Any:
    """What LIST lists, every file held to its digest: a copy that broke on the way is not to become an engine."""
    listed = _json(folder / LIST)
    for name, expected in listed["sha256"].items():
        try:
            found = digest(folder / name)
        except OSError as error:
            raise UsageError(f"'{folder / name}' cannot be read ({error.strerror})", fix=_AGAIN) from error
        if found != expected:
            raise UsageError(f"'{folder / name}' is not what was emitted: its digest differs", fix=_AGAIN)
    return listed


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' is missing or damaged", fix=_AGAIN) from error
    return found


def _stage(emitted: Path, build: Path, spec: Mapping[str, Any], plugins: Sequence[str]) -> None:
    """The emitted files as a build's child expects them, in a folder that it may write into."""
    for name in (GRAPH, WEIGHTS, *plugins):
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).symlink_to((emitted / name).resolve())
    (build / SPEC).write_text(json.dumps(spec), encoding="utf-8")


def _pack(
    folder: Path,
    build: Path,
    spec: Mapping[str, Any],
    header: Mapping[str, Any],
    listed: Mapping[str, Any],
    limits: Limits,
    path: Path,
) -> None:
    flavour = FLAVOURS[spec["flavour"]]
    outcome = run(CHILD, [str(build)], output=build / OUTPUT, limits=limits)
    result = read_result(build)
    if outcome.code != 0 or outcome.stopped or result is None:
        raise failure(flavour, outcome, build, spec["where"])
    # The members of before come first: a graph may name its weights by their place in the file.
    parts = [
        *(product.file_part(name, folder / MEMBERS / name) for name in listed["members"]),
        *product.parts(flavour, build),
        *(product.file_part(name, build / name) for name in listed["plugins"]),
    ]
    whole = _header(header, product.target(flavour, spec, result), parts)
    with Draft(path.parent, whole.name, whole, parts) as draft:
        draft.finish({"notes": [], "warnings": [], flavour.name: product.notes(result, outcome.peak_bytes, build)})
        draft.publish(path)


def test(path: Path, target: str) -> str:
    """What to tell: the engine holds its vectors, or why it could not be run here.

    Raises EngineError where it runs and does not compute what the model does.
    """
    import ingot

    try:
        with ingot.load(path, target=target, allow_unverified=True) as engine:
            if engine.header.selftest is None:
                return "it carries no self-test vectors: nothing was compared"
            from ingot.runtime.selftest import run_selftest

            results = run_selftest(engine)
    except RequirementError as error:
        return f"not run: {error}"
    wrong = [result for result in results if not result.measure.holds]
    if wrong:
        raise EngineError(
            f"{len(wrong)} of {len(results)} outputs are not what the model computes, '{wrong[0].output}' among them",
            where=f"{path}, self-test case '{wrong[0].case}'",
            fix="report it with the emitted folder",
        )
    return f"holds its self-test vectors: {len(results)} outputs"


def _for_this_machine(build: Path) -> dict[str, Any]:
    """The spec, its architectures those of this machine's GPU where the flavour builds on one. Raises BuildError."""
    spec = read_spec(build)
    flavour = FLAVOURS[spec["flavour"]]
    if installed_version(flavour.distribution) is None:
        raise BuildError(
            f"{flavour.distribution} is not installed here", fix=f"pip install 'ingot-compiler[{flavour.extra}]'"
        )
    if flavour.builds_without_gpu:
        return spec
    gpus = this_driver().gpus
    if not gpus:
        raise BuildError(f"{flavour.name} builds on the GPU that is to run the engine, and here is none")
    here = gpus[0]
    if spec["archs"] and here.arch not in spec["archs"]:
        asked = ", ".join(spec["archs"])
        raise BuildError(f"it was emitted for {asked}, and this GPU is {here.name} ({here.arch})", fix="--emit again")
    return {**spec, "archs": spec["archs"] or [here.arch]}


def _header(emitted: Mapping[str, Any], own: Target, parts: Sequence[Part]) -> Header:
    """The emitted header and the target that was built here; the draft fills in the members."""
    unknown = Member(0, 0, 0, "0" * 64)._asdict()
    targets = [*emitted["targets"], {**own._asdict(), "needs": dict(own.needs), "options": dict(own.options)}]
    members = {part.name: unknown for part in parts}
    return Header.from_json({**emitted, "targets": targets, "members": members})._replace(members={})
