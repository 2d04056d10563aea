"""`ingot check`: whether this machine can run an engine file."""

from __future__ import annotations

import click

from ingot.cli.table import print_json
from ingot.runtime.check import CheckReport, check_file


@click.command("check")
@click.argument("file", type=click.Path())
@click.option("--target", metavar="NAME", help="Look at this target only.")
@click.option("--full", is_flag=True, help="Read every byte and check every digest, the weights' too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, file: str, target: str | None, full: bool, as_json: bool) -> None:
    """Tell whether this machine can run FILE, and what to type where it cannot.

    Reads the header alone. Exits 0 where a target runs, 1 where none does.
    """
    report = check_file(file, target=target)
    if full:
        from ingot.file.read import EngineFile

        EngineFile.open(file, strict=True).close()
    if as_json:
        print_json(_as_data(file, report, full))
    else:
        _print(file, report, full)
    context.exit(0 if report.runs else 1)


def _print(file: str, report: CheckReport, full: bool) -> None:
    click.echo(f"{file}: {report.header.name}, " + ("runs here" if report.runs else "does not run here"))
    for target in report.targets:
        click.echo(f"  {target.name}: " + ("runs" if target.runs else "does not run"))
        for unmet in target.unmet:
            click.echo(f"    needs {unmet.requirement}, found {unmet.found}")
            click.echo(f"    try:  {unmet.fix}")
    if full:
        click.echo("  every digest holds")
    if report.header.verification == "off":
        click.echo("  not verified: loads only with allow_unverified=True")


def _as_data(file: str, report: CheckReport, full: bool) -> dict[str, object]:
    return {
        "file": file,
        "name": report.header.name,
        "runs": report.runs,
        "verification": report.header.verification,
        "digests": "all" if full else "header",
        "targets": [
            {
                "name": target.name,
                "runs": target.runs,
                "unmet": [
                    {"requirement": unmet.requirement, "found": unmet.found, "fix": unmet.fix} for unmet in target.unmet
                ],
            }
            for target in report.targets
        ],
    }
