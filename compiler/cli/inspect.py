"""`ingot inspect`: what is in an engine file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ingot.cli.table import print_table
from ingot.file.header import Header
from ingot.file.read import EngineFile
from ingot.runtime.report import Report, printable, size_text
from ingot.signature import Signature, Tree, children


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--passes", is_flag=True, help="Also list why passes declined near misses.")
@click.option("--json", "as_json", is_flag=True, help="Print the header and the record as JSON.")
def command(file: str, passes: bool, as_json: bool) -> None:
    """Show what is in FILE: inputs and outputs, targets, members, passes, accuracy. Nothing is loaded or run."""
    with EngineFile.open(file) as engine_file:
        header, record = engine_file.header, engine_file.record()
    if as_json:
        # As ASCII: JSON's own escapes are what keeps a stranger's control characters from the terminal.
        click.echo(json.dumps({"header": header.to_json(), "record": record}, indent=2))
        return
    click.echo(Report(header, record, size_bytes=os.path.getsize(file)))
    _print_signature(header.signature)
    _print_targets(header)
    _print_text(header)
    _section("members")
    members = [
        (name, member.offset, size_text(member.size_bytes), member.sha256[:16])
        for name, member in header.members.items()
    ]
    _table(members, ("name", "offset", "size", "sha256"))
    _print_passes(record, passes)


def _echo(text: str) -> None:
    click.echo(printable(text))


def _table(rows: Sequence[Sequence[object]], headers: Sequence[str] = ()) -> None:
    shown = [[cell if isinstance(cell, int | float) else printable(str(cell)) for cell in row] for row in rows]
    print_table(shown, headers, indent="  ")


def _section(title: str) -> None:
    click.echo(f"\n{title}")


def _print_signature(signature: Signature) -> None:
    bounds = {dim.name: str(dim) for dim in signature.dims}
    for title, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        _section(title)
        rows = [
            (tensor.name, tensor.dtype, f"[{', '.join(map(str, tensor.shape))}]", tensor.domain or "")
            for tensor in tensors
        ]
        _table(rows)
    if bounds:
        _section("dims")
        _table([(name, text.partition(":")[2]) for name, text in bounds.items()])
    click.echo()
    _echo(f"call    engine({', '.join(f'{n}={_sketch(t, False)}' for n, t in signature.parameters.items())})")
    _echo(f"gives   {_sketch(signature.result, True, [tensor.name for tensor in signature.outputs])}")


def _sketch(tree: Tree, named: bool, names: list[str] | None = None) -> str:
    """A structure as people would type it."""
    if "tensor" in tree:
        return names[tree["tensor"]] if names else "…"
    if "constant" in tree:
        return repr(tree["constant"])
    inner = [(key, _sketch(child, named, names)) for key, child in children(tree)]
    if "tuple" in tree:
        return f"({', '.join(text for _, text in inner)}{',' if len(inner) == 1 else ''})"
    if "list" in tree:
        return f"[{', '.join(text for _, text in inner)}]"
    pairs = ", ".join(f"{key}: {text}" for key, text in inner)
    return f"{tree.get('type', '')}{{{pairs}}}"


def _print_targets(header: Header) -> None:
    _section("targets")
    for target in header.targets:
        needs = ", ".join(f"{name} {wanted}" for name, wanted in target.needs.items()) or "nothing"
        _echo(f"  {target.name}  needs {needs}; " + ", ".join(f"{r} in {m}" for r, m in target.members.items()))
        for name, value in target.options.items():
            _echo(f"    {name}: {value}")


def _print_text(header: Header) -> None:
    text = header.text
    if text is None:
        return
    _section("text")
    fed = ", ".join(f"{kind} -> {name}" for kind, name in text.inputs.items())
    _echo(f"  {text.tokenizer}: {fed}; at most {text.max_tokens} tokens; gives {text.output}")
    for name, prompt in text.prompts.items():
        _echo(f"  prompt {name}: {prompt!r}" + (" (default)" if name == text.default_prompt else ""))


def _print_passes(record: Mapping[str, Any], declined: bool) -> None:
    steps = record.get("passes")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return
    _section("passes")
    rows = [[step.get(key, "") for key in ("name", "rewrites", "nodes_before", "nodes_after")] for step in steps]
    _table(rows, ("name", "rewrites", "nodes before", "after"))
    if declined:
        for step in steps:
            reasons = step.get("declined")
            for reason in reasons if isinstance(reasons, list) else ():
                _echo(f"  {step.get('name')}: {reason}")
