"""`ingot env`: what this machine has, and what each target would need to build and to run here."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from ingot.backends.targets import TARGETS, builder, loader
from ingot.cli.table import print_json, print_table
from ingot.cuda_driver import this_driver
from ingot.errors import RequirementError
from ingot.file.header import Target
from ingot.installed import installed_version
from ingot.machine import cpu_model, default_threads, this_machine, thread_limits
from ingot.runtime.report import size_text
from ingot.version import __version__

RUNTIME = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tokenizers")

COMPILER = ("torch", "onnx", "onnx-ir", "onnxscript")

TENSORRT = ("onnx-graphsurgeon", "polygraphy", "triton")
"""What building for TensorRT adds to the compiler."""

FOLDERS = ("transformers", "safetensors")
"""What a Hugging Face folder needs beyond the compiler."""

_TOLD = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni")
_TOLD_PREFIXES = ("amx_", "asimd", "sve", "i8mm", "bf16")


@click.command("env")
@click.option("--coverage", metavar="TARGET", help="Print every operator that TARGET runs here, and how.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(coverage: str | None, as_json: bool) -> None:
    """Show what is installed, this processor, the threads of a run, and what each target would need."""
    if coverage is not None:
        _print_coverage(coverage, as_json)
        return
    data = environment()
    if as_json:
        print_json(data)
        return
    click.echo(f"ingot {data['ingot']}, Python {data['python']}, {data['system']} {data['arch']}")
    click.echo(f"processor  {data['cpu']}: {', '.join(data['features']) or 'no features known'}")
    reasons = ", ".join(f"{why} {count}" for why, count in data["threads"]["limits"].items())
    click.echo(f"gpu        {_gpu_text(data['gpu'])}")
    click.echo(f"threads    {data['threads']['chosen']} ({reasons})")
    click.echo("\ninstalled")
    print_table([(name, version or "-") for name, version in data["installed"].items()], indent="  ")
    click.echo("\ntargets")
    for name, target in data["targets"].items():
        for side in ("run", "build"):
            click.echo(f"  {name:<12} {side:<6} {'yes' if target[side]['works'] else 'no'}")
            for missing in target[side]["missing"]:
                click.echo(f"                      needs {missing['requirement']}, found {missing['found']}")
                click.echo(f"                      try:  {missing['fix']}")


def _gpu_text(gpu: Mapping[str, Any]) -> str:
    if not gpu["gpus"]:
        return str(gpu["problem"])
    names = (f"{each['name']} ({each['arch']}, {size_text(each['memory_bytes'])})" for each in gpu["gpus"])
    return f"{', '.join(names)}; the driver takes CUDA {gpu['cuda']}"


def _print_coverage(target: str, as_json: bool) -> None:
    backend = loader(target)
    try:
        rows = builder(target).coverage()
    except ImportError as error:
        lacking = backend.unmet(Target(target, {}, backend.build_needs), this_machine())
        needed = ", ".join(item.requirement for item in lacking) or error.name
        fix = "; ".join(item.fix for item in lacking) or "pip install 'ingot-compiler[compile]'"
        raise RequirementError(f"the coverage of target {target} needs {needed}", fix=fix) from error
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    headers = ("operator", "operator sets", "how", "dtypes")
    sets = [f"{row.low}..{'' if row.high is None else row.high}" for row in rows]
    print_table(
        [(row.operator, span, row.how, ", ".join(row.dtypes)) for row, span in zip(rows, sets, strict=True)], headers
    )
    click.echo(f"\nfrom: {builder(target).coverage_source}")


def environment() -> dict[str, Any]:
    """What the command prints, as data."""
    machine = this_machine()
    installed = {name: installed_version(name) for name in (*RUNTIME, *COMPILER, *TENSORRT, *FOLDERS)}
    return {
        "ingot": __version__,
        "python": platform.python_version(),
        "system": machine.system,
        "arch": machine.arch,
        "cpu": cpu_model(),
        "features": sorted(f for f in machine.features if f in _TOLD or f.startswith(_TOLD_PREFIXES)),
        "gpu": _gpu(),
        "threads": {"chosen": default_threads(), "limits": _limits()},
        "installed": installed,
        "targets": {name: _target(name, installed) for name in TARGETS},
    }


def _gpu() -> dict[str, Any]:
    driver = this_driver()
    gpus = [{"name": gpu.name, "arch": gpu.arch, "memory_bytes": gpu.memory_bytes} for gpu in driver.gpus]
    return {"cuda": driver.cuda, "gpus": gpus, "problem": driver.problem}


def _limits() -> dict[str, int]:
    asked = os.environ.get("INGOT_NUM_THREADS")
    return thread_limits() if asked is None else {"INGOT_NUM_THREADS": default_threads()}


def _target(name: str, installed: Mapping[str, str | None]) -> dict[str, Any]:
    backend = loader(name)
    run, build = (
        [
            {"requirement": item.requirement, "found": item.found, "fix": item.fix}
            for item in backend.unmet(Target(name, {}, needs), this_machine())
        ]
        for needs in (backend.needs, backend.build_needs)
    )
    lacking = [package for package in COMPILER if installed[package] is None]
    if lacking:
        fix = "pip install 'ingot-compiler[compile]'"
        build.append({"requirement": ", ".join(lacking), "found": "none", "fix": fix})
    return {"run": {"works": not run, "missing": run}, "build": {"works": not build, "missing": build}}
