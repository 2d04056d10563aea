"""`ingot inspect`: what is in an engine file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from ingot.cli.table import print_json, print_table
from ingot.file.header import Header
from ingot.file.read import EngineFile
from ingot.runtime.report import Report, size_text
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
        print_json({"header": header.to_json(), "record": record})
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
    print_table(members, ("name", "offset", "size", "sha256"), indent="  ")
    _print_passes(record, passes)


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
        print_table(rows, indent="  ")
    if bounds:
        _section("dims")
        print_table([(name, text.partition(":")[2]) for name, text in bounds.items()], indent="  ")
    click.echo(f"\ncall    engine({', '.join(f'{n}={_sketch(t, False)}' for n, t in signature.parameters.items())})")
    click.echo(f"gives   {_sketch(signature.result, True, [tensor.name for tensor in signature.outputs])}")


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
        click.echo(f"  {target.name}  needs {needs}; " + ", ".join(f"{r} in {m}" for r, m in target.members.items()))
        for name, value in target.options.items():
            click.echo(f"    {name}: {value}")


def _print_text(header: Header) -> None:
    text = header.text
    if text is None:
        return
    _section("text")
    fed = ", ".join(f"{kind} -> {name}" for kind, name in text.inputs.items())
    click.echo(f"  {text.tokenizer}: {fed}; at most {text.max_tokens} tokens; gives {text.output}")
    for name, prompt in text.prompts.items():
        click.echo(f"  prompt {name}: {prompt!r}" + (" (default)" if name == text.default_prompt else ""))


def _print_passes(record: Mapping[str, Any], declined: bool) -> None:
    steps = record.get("passes")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return
    _section("passes")
    rows = [[step.get(key, "") for key in ("name", "rewrites", "nodes_before", "nodes_after")] for step in steps]
    print_table(rows, ("name", "rewrites", "nodes before", "after"), indent="  ")
    if declined:
        for step in steps:
            for reason in step.get("declined", ()):
                click.echo(f"  {step.get('name')}: {reason}")
