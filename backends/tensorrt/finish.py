"""Finishes an emitted build where TensorRT and its GPU are: builds the plan, packs the engine file, tests it.

Needs Ingot's base install and the flavour's package.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingot.backends.tensorrt import product
from ingot.backends.tensorrt.child.parse import LOG, OUTPUT, PLAN, RESULT, SPEC, read_spec
from ingot.backends.tensorrt.child.process import Limits, run
from ingot.backends.tensorrt.failure import failure, read_result
from ingot.backends.tensorrt.flavours import FLAVOURS, Flavour
from ingot.cuda_driver import this_driver
from ingot.errors import BuildError, EngineError, IngotError, RequirementError
from ingot.file.header import Header, Member
from ingot.file.write import Draft, Part
from ingot.installed import installed_version

BUILD, MEMBERS, HEADER = "build", "members", "header.json"

CHILD = "ingot.backends.tensorrt.child.build"


def main(folder: Path, arguments: Sequence[str]) -> int:
    """The exit code; errors go to stderr as the command line shows them."""
    try:
        path = finish(folder, Path(arguments[0]) if arguments else None)
        print(f"wrote {path}")
        print(test(path, read_spec(folder / BUILD)["flavour"]))
    except IngotError as error:
        if os.environ.get("INGOT_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def finish(folder: Path, output: Path | None = None) -> Path:
    """Builds the plan and writes the engine file, NAME.ingot in `folder` by default.

    Raises BuildError where TensorRT or its GPU is not here, or the build fails.
    """
    build = folder / BUILD
    spec = _for_this_machine(build)
    flavour = FLAVOURS[spec["flavour"]]
    for name in (RESULT, LOG, OUTPUT, PLAN):
        (build / name).unlink(missing_ok=True)
    outcome = run(CHILD, [str(build)], output=build / OUTPUT, limits=Limits.from_environment())
    result = read_result(build)
    if outcome.code != 0 or outcome.stopped or result is None:
        raise failure(flavour, outcome, build, spec["where"])
    listed = json.loads((folder / f"{MEMBERS}.json").read_text(encoding="utf-8"))
    # The members of before come first: a graph may name its weights by their place in the file.
    parts = [
        *(product.file_part(name, folder / MEMBERS / name) for name in listed["members"]),
        *product.parts(flavour, build),
        *(product.file_part(name, build / name) for name in listed["plugins"]),
    ]
    header = _header(folder, flavour, spec, result, parts)
    path = output or folder / f"{header.name}.ingot"
    with Draft(path.parent, header.name, header, parts) as draft:
        draft.finish({"notes": [], "warnings": [], flavour.name: product.notes(result, outcome.peak_bytes, build)})
        draft.publish(path)
    return path


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
    if not spec["archs"]:
        spec["archs"] = [here.arch]
        (build / SPEC).write_text(json.dumps(spec, indent=1), encoding="utf-8")
    return spec


def _header(folder: Path, flavour: Flavour, spec: Any, result: Any, parts: Sequence[Part]) -> Header:
    data = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    own = product.target(flavour, spec, result)
    data["targets"].append({key: dict(value) if key != "name" else value for key, value in own._asdict().items()})
    unknown = Member(0, 0, 0, "0" * 64)._asdict()
    header = Header.from_json({**data, "members": {part.name: unknown for part in parts}})
    return header._replace(members={})
