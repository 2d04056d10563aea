"""`ingot compile`: a model becomes one verified engine file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from ingot.backends.targets import check_buildable, check_targets, split
from ingot.cli.table import print_json
from ingot.errors import UsageError
from ingot.file import atomic
from ingot.file.read import EngineFile
from ingot.frontend.shapes import parse_shapes
from ingot.machine import default_threads
from ingot.runtime import check
from ingot.runtime.report import Report


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
@click.option(
    "--arch",
    metavar="NAMES",
    help="GPU architectures to build for: sm_89,sm_120.  [default: this machine's]",
)
@click.option(
    "--emit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write what a build for tensorrt needs, and a script that finishes it there; no engine file.",
)
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
    arch: str | None,
    emit: Path | None,
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
    targets, archs = split(target), split(arch) if arch else ()
    check_targets(targets, archs)
    if emit is None:
        check_buildable(targets)
    elif output is not None:
        raise UsageError("--emit writes a folder and no engine file", fix="--emit DIR without -o")
    declared = parse_shapes(shapes) if shapes else None
    show = Shown(silent=quiet or as_json)
    show.begin("read the model")
    from ingot.frontend.source import load_inputs, resolve

    source = resolve(model, load_inputs(inputs) if inputs else None)
    # Seconds of imports, only once what was typed can be meant.
    from ingot.frontend.declare import declare_shapes
    from ingot.frontend.python_object import import_name
    from ingot.pipeline import CompileOptions, compile_source

    options = CompileOptions(
        targets=targets,
        archs=archs,
        verify=verify,
        threads=threads or default_threads(),
        translations=import_name(translations) if translations else {},
    )
    if declared is not None:
        declare_shapes(source, declared)
    if emit is not None:
        _emit(source, options, emit, show)
        if not quiet:
            click.echo(f"written to {emit}; next, where TensorRT and its GPU are: python {emit}/finish.py")
        return
    path = output or Path(f"{source.name}.ingot")
    folder = atomic.destination(path).parent
    with compile_source(source, options, folder=folder, progress=show) as draft:
        draft.publish(path)
    show.end()
    if not quiet:
        _print(path, as_json)


def _emit(source: Any, options: Any, folder: Path, show: Shown) -> None:
    # Only an emitted build needs TensorRT's build side.
    from ingot.emit import emit_source

    emit_source(source, options, folder, progress=show)
    show.end()


def _print(path: Path, as_json: bool) -> None:
    """The report of the file just written."""
    with EngineFile.open(path) as file:
        report = Report(file.header, file.record(), size_bytes=path.stat().st_size)
    if as_json:
        print_json(dict(report))
        return
    runs = any(target.runs for target in check.check_targets(file.header))
    click.echo(str(report))
    click.echo(f"\nwritten to {path}; next: ingot {'run' if runs else 'inspect'} {path}")


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
