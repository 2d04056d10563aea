"""`ingot verify`: an engine file's accuracy measured again, on this machine."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import click

from ingot.cli.table import print_json, print_table
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine
from ingot.runtime.selftest import SelfTest, run_selftest


@click.command("verify")
@click.argument("file", type=click.Path())
@click.argument("model", required=False)
@click.option("--inputs", type=click.Path(), metavar="FILE.npz", help="Example inputs for MODEL.")
@click.option(
    "--seed", type=click.IntRange(0), help="Seed of the inputs drawn for MODEL; another each time by default."
)
@click.option("--target", metavar="NAME", help="The target to measure; by default the first that this machine can run.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of a run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    /,
    file: str,
    model: str | None,
    inputs: str | None,
    seed: int | None,
    as_json: bool,
    **load: Any,
) -> None:
    """Replay the self-test vectors of FILE here, without PyTorch; with MODEL, compare with the model itself.

    Every digest is checked first. Exits 1 where an output is less accurate than the file promises.
    """
    with open_engine(file, strict=True, allow_unverified=True, **load) as engine:
        results = run_selftest(engine) if engine.header.selftest or model is None else []
        accuracy = None if model is None else _against(engine, model, inputs, seed)
    holds = all(result.measure.holds for result in results)
    if as_json:
        print_json({"holds": holds, "selftest": [_as_data(item) for item in results], "model": accuracy})
    else:
        _print(results)
        if accuracy is not None:
            click.echo(f"\nagainst {model}, every output holds:")
            print_table([(output["name"], output["case"], _db(output["sqnr_db"])) for output in accuracy["outputs"]])
    context.exit(0 if holds else 1)


def _against(engine: Engine, model: str, inputs: str | None, seed: int | None) -> dict[str, Any]:
    """The accuracy as the record has it. Raises VerificationError where an output does not hold."""
    # Needs torch; the self-test does not.
    again = import_module("ingot.verify.again")
    accuracy: dict[str, Any] = again.verify_again(engine, model, inputs=inputs, seed=seed).to_json()
    return accuracy


def _print(results: list[SelfTest]) -> None:
    rows = []
    for item in results:
        found = item.measure
        said = found.mismatch or ("" if found.holds else "too inaccurate")
        needed = "equal" if found.needed_db is None else f"{found.needed_db:.0f} dB"
        worst = "" if found.mismatch else _db(found.worst_db)
        rows.append((item.case, item.output, worst, needed, "holds" if found.holds else f"FAILS {said}"))
    print_table(rows, ("case", "output", "worst", "needs", ""))


def _db(decibels: float | None) -> str:
    return "equal" if decibels is None or math.isinf(decibels) else f"{decibels:.1f} dB"


def _as_data(item: SelfTest) -> dict[str, Any]:
    found = item.measure
    return {
        "case": item.case,
        "output": item.output,
        "holds": found.holds,
        "sqnr_db": found.sqnr_db,
        "row_sqnr_db": found.row_sqnr_db,
        "max_abs_error": found.max_abs_error,
        "needed_db": found.needed_db,
        "mismatch": found.mismatch,
    }
