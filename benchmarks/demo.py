"""`make demo`: the real MiniLM compiled, searched with where there is no PyTorch, and measured beside its peers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import ingot
from benchmarks import minilm, minilm_speed
from benchmarks.facts import facts, told
from benchmarks.harness import Unmeasured
from benchmarks.processes import INGOT, ROOT
from ingot.errors import IngotError

QUERY = "How do I get my money back?"

SENTENCES = (
    "Refunds are paid to the card that you bought with, within ten days.",
    "If the goods arrive broken, we replace them or return what you paid.",
    "Our office is closed on public holidays.",
    "The bank raised its interest rates in spring.",
    "Preheat the oven and butter a baking dish.",
)

KEPT_OUT = ("torch", "onnx", "onnx_ir", "click", "transformers", "sentence_transformers")

SHAPES = minilm.SHAPES[:3]
ROUNDS = 5


def main() -> int:
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        compile_engine(folder, path)
        search(path)
        compare(path)
    except (IngotError, Unmeasured) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        # It said itself what was wrong.
        return int(error.returncode)
    title("Next")
    print(f'  .venv/bin/ingot run {path} --text "a sentence of yours"')
    print(f"  .venv/bin/ingot inspect {path}          what is in the file")
    print("  .venv/bin/ingot compile YOUR_MODEL_FOLDER -o yours.ingot")
    print("  make bench                              every promise, measured here")
    return 0


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def compile_engine(folder: Path, path: Path) -> None:
    title(f"Compile {folder} to {path}, verified against PyTorch eager")
    if minilm.is_current(path, folder):
        print(f"  {path} is newer than the model and the compiler: not compiled again (rm {path} to see it)")
        with ingot.load(path) as engine:
            print(engine.report)
        return
    began = time.perf_counter()
    subprocess.run([*INGOT, "compile", str(folder), "-o", str(path)], check=True)
    print(f"the whole process took {time.perf_counter() - began:.1f} s", flush=True)


def search(path: Path) -> None:
    title(f"Search, in a process that cannot import {', '.join(KEPT_OUT)}")
    print(f"  {QUERY}", flush=True)
    began = time.perf_counter()
    script = ROOT / "docs" / "examples" / "rank.py"
    command = [sys.executable, "-m", "benchmarks.without", ",".join(KEPT_OUT), str(script)]
    subprocess.run([*command, str(path), QUERY, *SENTENCES], check=True)
    print(f"  {time.perf_counter() - began:.1f} s from the start of the process to its end (docs/examples/rank.py)")


def compare(path: Path) -> None:
    found = facts()
    title("Compare with PyTorch eager and with ONNX Runtime on torch's plain export (made once, takes a while)")
    rows = minilm_speed.compare(path, found["threads"], ROUNDS, SHAPES)
    print(minilm_speed.table(rows))
    print(told(found))


if __name__ == "__main__":
    sys.exit(main())
