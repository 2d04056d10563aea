"""`ingot inspect`: what is in an engine file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from ingot.cli.table import print_table
from ingot.errors import FormatError
from ingot.file.header import Header, Target
from ingot.file.read import EngineFile
from ingot.runtime.report import Report, printable, size_text
from ingot.signature import Signature, Tree, children


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option("--passes", is_flag=True, help="Also list why passes declined near misses.")
@click.option("--layers", is_flag=True, help="Also list the layers of a TensorRT plan.")
@click.option("--json", "as_json", is_flag=True, help="Print the header and the record as JSON.")
def command(file: str, passes: bool, layers: bool, as_json: bool) -> None:
    """Show what is in FILE: inputs and outputs, targets, members, passes, accuracy. Nothing is loaded or run."""
    with EngineFile.open(file) as engine_file:
        header, record = engine_file.header, engine_file.record()
        plans = {target.name: _layers_of(engine_file, target) for target in header.targets}
    if as_json:
        # As ASCII: JSON's own escapes are what keeps a stranger's control characters from the terminal.
        data = {"header": header.to_json(), "record": record}
        click.echo(json.dumps({**data, "layers": plans} if layers else data, indent=2))
        return
    click.echo(Report(header, record, size_bytes=os.path.getsize(file)))
    _print_signature(header.signature)
    _print_targets(header, plans, layers)
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


def _print_targets(header: Header, plans: Mapping[str, Sequence[Mapping[str, Any]]], every_layer: bool) -> None:
    _section("targets")
    for target in header.targets:
        needs = ", ".join(f"{name} {wanted}".strip() for name, wanted in target.needs.items()) or "nothing"
        _echo(f"  {target.name}  needs {needs}; " + ", ".join(f"{r} in {m}" for r, m in target.members.items()))
        for name, value in target.options.items():
            _print_option(name, value)
        if layers := plans[target.name]:
            _echo(f"    layers: {_counted(layer.get('kind') for layer in layers)}")
            given = (tensor.get("dtype") for layer in layers for tensor in _maps(layer.get("outputs")))
            _echo(f"    precisions: {_counted(given)}")
        if every_layer:
            _table([_layer_row(layer) for layer in plans[target.name]], ("layer", "gives", "nodes", "where"))


def _print_option(name: str, value: Any) -> None:
    if name == "profiles" and isinstance(value, dict):
        _echo("    shapes: least, tuned for, most")
        for tensor, shapes in value.items():
            _echo(f"      {tensor}: {', '.join(map(str, shapes)) if isinstance(shapes, list) else shapes}")
    elif name == "proven":
        _echo("    " + ("ran on a GPU" if value else "not run on a GPU yet; its first load holds it to the self-test"))
    elif name == "plugins" and _maps(value):
        for plugin in _maps(value):
            kernels = _maps(plugin.get("kernels"))
            keys, archs = (", ".join(dict.fromkeys(str(each.get(k)) for each in kernels)) for k in ("key", "arch"))
            _echo(f"    plugin {plugin.get('name')} {plugin.get('version')}: {keys} for {archs}")
    elif value not in ([], {}):
        _echo(f"    {name}: {value}")


def _layers_of(file: EngineFile, target: Target) -> list[Mapping[str, Any]]:
    """The layers of a TensorRT plan; none of a target that lists none."""
    if "layers" not in target.members:
        return []
    try:
        return _maps(json.loads(file.read(target.members["layers"])))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the layers of target {target.name} are no JSON", where=file.path) from error


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _counted(kinds: Iterable[Any]) -> str:
    return ", ".join(f"{count} {str(kind).lower()}" for kind, count in Counter(kinds).most_common())


def _layer_row(layer: Mapping[str, Any]) -> tuple[str, str, str, str]:
    gives = ", ".join(f"{tensor.get('dtype')}{tensor.get('shape')}" for tensor in _maps(layer.get("outputs")))
    nodes, where = (
        ", ".join(map(str, value)) if isinstance(value := layer.get(key), list) else "" for key in ("nodes", "where")
    )
    return f"{layer.get('kind')} {layer.get('name')}", gives, nodes, where


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
