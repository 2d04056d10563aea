"""A fresh process with an engine: no torch, no onnx, no click, no child process, and little time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.models.handmade import write_encoder

PROGRAM = """
import json, sys, threading
sys.modules.update(dict.fromkeys(["torch", "onnx", "onnx_ir", "onnxscript", "click", "transformers"]))
spawned = []
sys.addaudithook(lambda event, args: spawned.append(event) if event in (
    "subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "socket.connect") else None)
import ingot, numpy, onnxruntime
engine = ingot.load(sys.argv[1], threads=1)
ids = numpy.array([[1, 2]])
out = engine(ids, numpy.ones_like(ids))
loaded = [name for name, module in sys.modules.items() if module is not None]
report = ingot.check(sys.argv[1])
print(json.dumps({"shape": out.embedding.shape, "spawned": spawned, "runs": report.runs,
                  "ours": [n for n in loaded if n.startswith("ingot")], "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = write_encoder(tmp_path_factory.mktemp("production") / "encoder.ingot", 1)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_runs_where_the_compiler_cannot_be_imported(outcome: dict[str, object]) -> None:
    assert outcome["shape"] == [1, 8]
    assert outcome["runs"]


def test_starts_no_process_and_no_connection(outcome: dict[str, object]) -> None:
    assert outcome["spawned"] == []


def test_loads_only_the_second_chain(outcome: dict[str, object]) -> None:
    ours = outcome["ours"]
    assert isinstance(ours, list)
    allowed = (
        "api",
        "backends",
        "cuda_driver",
        "errors",
        "file",
        "installed",
        "machine",
        "runtime",
        "signature",
        "version",
    )
    assert {name.split(".")[1] for name in ours if "." in name} <= set(allowed)
    assert not [name for name in ours if name.endswith(".build")]


def test_check_imports_no_inference_library(tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "encoder.ingot", seed)
    heavy = "('onnxruntime', 'torch', 'onnx')"
    code = f"import sys, ingot; ingot.check(sys.argv[1]); print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
