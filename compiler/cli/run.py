"""`ingot run`: one engine file on arrays, on drawn inputs, or on text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ingot.cli.arrays import draw_inputs, read_arrays, read_sizes, write_arrays
from ingot.cli.table import print_json, print_table
from ingot.errors import UsageError
from ingot.file import atomic
from ingot.machine import default_threads
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine

Array = np.ndarray[Any, Any]


@click.command("run")
@click.argument("file", type=click.Path())
@click.option("--inputs", type=click.Path(), metavar="FILE.npz", help="Arrays by input name.")
@click.option(
    "--shape", "sizes", multiple=True, metavar="DIM=SIZE,…", help="Sizes of drawn inputs: batch=2,sequence=16."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of drawn inputs.")
@click.option("--text", "texts", multiple=True, help="A text to embed; may be repeated.")
@click.option(
    "--texts", "texts_file", type=click.File("r", encoding="utf-8"), help="A file with a text on each line; - is stdin."
)
@click.option("--prompt-name", metavar="NAME", help="One of the engine's prompts, put in front of every text.")
@click.option("-o", "--output", type=click.Path(), metavar="OUT.npz", help="Write every output.")
@click.option("--repeat", type=click.IntRange(1), metavar="N", help="Run N times and print the time of a run.")
@click.option("--target", metavar="NAME", help="The target to run; by default the first that this machine can.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of a run.")
@click.option("--strict", is_flag=True, help="Check every digest, the weights' too.")
@click.option("--allow-unverified", is_flag=True, help="Run an engine that was compiled with --verify off.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    inputs: str | None,
    sizes: tuple[str, ...],
    seed: int,
    texts: tuple[str, ...],
    texts_file: Any,
    output: str | None,
    repeat: int | None,
    as_json: bool,
    prompt_name: str | None,
    **load: Any,
) -> None:
    """Run FILE once and show what comes out.

    Inputs come from --inputs, are drawn inside the declared sizes and domains (--shape, --seed), or are made from text.
    """
    lines = [*texts, *_read_lines(texts_file)]
    by_text = bool(texts) or texts_file is not None
    if by_text and (inputs or sizes):
        raise UsageError("text and arrays are both given", fix="--text, or --inputs, or --shape")
    if inputs and sizes:
        raise UsageError("--inputs and --shape are both given: the arrays bring their sizes", fix="one of them")
    if not by_text and prompt_name is not None:
        raise UsageError("--prompt-name goes with text", fix='--text "…"')
    if output is not None:
        # A run may take minutes; that its result cannot be written is said before.
        atomic.destination(Path(output), "out.npz")
    with open_engine(file, **load) as engine:
        run: Callable[[], Mapping[str, Array]]
        if by_text:
            run = _embedding(engine, lines, prompt_name)
        else:
            signature = engine.header.signature
            arrays = read_arrays(inputs) if inputs else draw_inputs(signature, read_sizes(signature, sizes), seed)
            run = _running(engine, arrays)
        outputs, seconds = _timed(run, repeat)
        threads = load["threads"] or default_threads()
        if len(engine.header.targets) > 1:
            click.echo(f"on {engine.why}", err=True)
        named = f"{engine.name} on {engine.target}"
    if output is not None:
        write_arrays(Path(output), outputs)
    if as_json:
        times = {
            "runs": len(seconds),
            "median_s": float(np.median(seconds)),
            "least_s": min(seconds),
            "threads": threads,
        }
        print_json({"outputs": {name: _facts(array) for name, array in outputs.items()}, "time": times})
        return
    _print(outputs, lines if by_text else None)
    if repeat is not None:
        median, least = float(np.median(seconds)) * 1e3, min(seconds) * 1e3
        click.echo(f"\n{named}: median {median:.3f} ms, least {least:.3f} ms of {repeat} runs, {threads} threads")
    if output is not None:
        click.echo(f"\nwritten to {output}")


def _read_lines(file: Iterable[str] | None) -> list[str]:
    try:
        return [line.rstrip("\r\n") for line in file or ()]
    except UnicodeDecodeError as error:
        name = getattr(file, "name", "-")
        raise UsageError(
            f"the texts are not UTF-8: {error.reason}", where=str(name), fix="iconv -f LATIN1 -t UTF-8 FILE"
        ) from error


def _running(engine: Engine, arrays: Mapping[str, Array]) -> Callable[[], Mapping[str, Array]]:
    return lambda: engine.run_named(arrays)


def _embedding(engine: Engine, texts: Sequence[str], prompt_name: str | None) -> Callable[[], Mapping[str, Array]]:
    # Only text needs the embedder and its tokenizer.
    from ingot.runtime.embedder import Embedder

    embedder = Embedder(engine)
    if prompt_name is not None and prompt_name not in embedder.prompts:
        has = ", ".join(map(repr, embedder.prompts)) or "none"
        fix = f"--prompt-name {next(iter(embedder.prompts))}" if embedder.prompts else '--text "PROMPT TEXT"'
        raise UsageError(f"engine '{engine.name}' has no prompt '{prompt_name}'; it has {has}", fix=fix)
    name = engine.header.text.output if engine.header.text else ""
    return lambda: {name: embedder.encode(texts, prompt_name=prompt_name)}


def _timed(run: Callable[[], Mapping[str, Array]], repeat: int | None) -> tuple[Mapping[str, Array], list[float]]:
    """The outputs and the seconds of each run; where they are asked for, one run before them warms up."""
    if repeat is not None:
        run()
    seconds = []
    outputs: Mapping[str, Array] = {}
    for _ in range(repeat or 1):
        start = time.perf_counter()
        outputs = run()
        seconds.append(time.perf_counter() - start)
    return outputs, seconds


def _facts(array: Array) -> dict[str, Any]:
    facts: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    if array.size and array.dtype.kind in "biuf":
        values = array.astype(np.float64)
        finite = values[np.isfinite(values)]
        facts["nonfinite"] = int(values.size - finite.size)
        if finite.size:
            facts |= {"min": float(finite.min()), "mean": float(finite.mean()), "max": float(finite.max())}
    return facts


def _print(outputs: Mapping[str, Array], texts: Sequence[str] | None) -> None:
    rows = []
    for name, array in outputs.items():
        facts = _facts(array)
        numbers = [f"{facts[key]:.6g}" if key in facts else "" for key in ("min", "mean", "max")]
        odd = f"{facts['nonfinite']} not finite" if facts.get("nonfinite") else ""
        rows.append((name, facts["dtype"], str(facts["shape"]), *numbers, odd))
    print_table(rows, ("output", "dtype", "shape", "min", "mean", "max", ""))
    if texts:
        click.echo()
        (vectors,) = outputs.values()
        shown = [
            (_shortened(text), "  ".join(f"{x: .4f}" for x in row[:4]) + " …")
            for text, row in zip(texts, vectors, strict=True)
        ]
        print_table(shown, ("text", "first of the vector"))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
