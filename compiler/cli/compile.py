"""`ingot compile`: a model becomes one verified engine file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from ingot.backends.targets import loader
from ingot.cli.table import print_json
from ingot.errors import UsageError
from ingot.file import atomic
from ingot.frontend.shapes import parse_shapes
from ingot.machine import default_threads


@click.command("compile")
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The engine file.  [default: ./<model>.ingot]")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT=AXES",
    help="Names and bounds of an input's axes: input_ids=batch:1..64,sequence:1..512. Repeat for other inputs.",
)
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE.npz", help="Example inputs by name.")
@click.option("--target", default="cpu", show_default=True, help="What the engine is built for; several: cpu,NAME.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of a run while verifying.")
@click.option(
    "--verify",
    type=click.Choice(["full", "quick", "off"]),
    default="full",
    show_default=True,
    help="full: your inputs and drawn ones at other sizes; quick: your inputs; off: load refuses the file.",
)
@click.option(
    "--translations",
    metavar="MODULE:NAME",
    help="A dict of translations for operators of your own, as ingot.compile takes it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    model: str,
    output: Path | None,
    shapes: tuple[str, ...],
    inputs: Path | None,
    target: str,
    threads: int | None,
    verify: Any,
    translations: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compile MODEL, verify the result against PyTorch eager, and write it as one file.

    MODEL is a Hugging Face or sentence-transformers folder, or package.module:name (an nn.Module, or a function that
    gives one, alone or with example inputs).
    """
    # Minutes of compiling must not end at a folder that is not there.
    if output is not None:
        atomic.destination(output)
    targets = _targets(target)
    declared = parse_shapes(shapes) if shapes else None
    show = Shown(silent=quiet or as_json)
    show.begin("read the model")
    from ingot.frontend.source import load_inputs, resolve

    source = resolve(model, load_inputs(inputs) if inputs else None)
    # Seconds of imports, only once what was typed can be meant.
    from ingot.frontend.declare import declare_shapes
    from ingot.frontend.python_object import import_name
    from ingot.pipeline import CompileOptions, compile_source
    from ingot.runtime.open import open_engine

    options = CompileOptions(
        targets=targets,
        verify=verify,
        threads=threads or default_threads(),
        translations=import_name(translations) if translations else {},
    )
    if declared is not None:
        declare_shapes(source, declared)
    path = output or Path(f"{source.name}.ingot")
    folder = atomic.destination(path).parent
    with compile_source(source, options, folder=folder, progress=show) as draft:
        draft.publish(path)
    show.end()
    if quiet:
        return
    with open_engine(path, allow_unverified=True) as engine:
        if as_json:
            print_json(dict(engine.report))
        else:
            click.echo(str(engine.report))
            click.echo(f"\nwritten to {path}; next: ingot run {path}")


def _targets(text: str) -> tuple[str, ...]:
    """The names, each of a target that there is. Raises UsageError."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        loader(name)
    if len(set(names)) < len(names):
        raise UsageError(f"--target {text} names a target twice", fix=f"--target {','.join(dict.fromkeys(names))}")
    return names


class Shown:
    """Progress on stderr: one line that changes on a terminal, a line for each step elsewhere."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.terminal = sys.stderr.isatty()
        self.began = time.perf_counter()
        self.step = ""

    def begin(self, step: str) -> None:
        self.step = step
        self._show(step)

    def detail(self, text: str) -> None:
        if self.terminal:
            self._show(f"{self.step}: {text}")

    def end(self) -> None:
        if self.terminal and not self.silent:
            click.echo("\r\033[K", nl=False, err=True)

    def _show(self, text: str) -> None:
        if self.silent:
            return
        elapsed = time.perf_counter() - self.began
        line = f"{elapsed:6.1f} s  {text}"
        click.echo(f"\r\033[K{line[:100]}" if self.terminal else line, nl=not self.terminal, err=True)
