"""The command: runs the named benchmarks, or all, and prints a table and the bars of each."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.catalogue import BENCHMARKS
from benchmarks.facts import facts, told
from benchmarks.harness import Benchmark, Result, Unmeasured, bar_lines
from ingot.errors import IngotError


def main() -> int:
    """Exits 0 when everything asked for was measured, whatever the bars say; 1 when something could not be."""
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(known)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found as JSON, too")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    machine = facts()
    print(told(machine), flush=True)
    found = [measure(known[name]) for name in asked.names or known]
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": machine, "benchmarks": found}, indent=2) + "\n")
    print()
    print("\n".join(bar["line"] for item in found for bar in item["bars"]))
    return 1 if any(bar["verdict"] == "unmeasured" for item in found for bar in item["bars"]) else 0


def measure(benchmark: Benchmark) -> dict[str, Any]:
    """Runs one and prints it. What it needs and does not get makes its bars unmeasured, not the run fail."""
    print(f"\n{benchmark.name}", flush=True)
    result, reason = Result(), "the benchmark gave no value"
    try:
        result = benchmark.run()
    except (Unmeasured, IngotError, ImportError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    for table in result.tables:
        print(table)
    lines = bar_lines(benchmark.bars, result.values, reason)
    print("\n".join(lines), flush=True)
    bars = [
        asdict(bar) | {"value": value, "verdict": bar.verdict(value), "line": line}
        for bar, line in zip(benchmark.bars, lines, strict=True)
        for value in [result.values.get(bar.name)]
    ]
    return {"name": benchmark.name, "bars": bars, "tables": [asdict(table) for table in result.tables]} | (
        {"data": result.data} if result.data else {}
    )


if __name__ == "__main__":
    sys.exit(main())
