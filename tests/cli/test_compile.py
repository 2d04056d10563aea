"""`ingot compile` as people type it: the file, the report, progress, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import ingot
from ingot.cli.main import ingot as command

MODEL = """
import torch


class Double(torch.nn.Module):
    def forward(self, x):
        return x * 2


def with_inputs():
    return Double(), torch.ones(2, 3)


def branching():
    class Branching(torch.nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x
            return -x

    return Branching(), torch.ones(2, 3)


def empty():
    with torch.device("meta"):
        return torch.nn.Linear(3, 3), torch.ones(2, 3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one module of models under a name of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"models_{tmp_path.name}.py").write_text(MODEL)
    return tmp_path


def named(folder: Path, name: str) -> str:
    return f"models_{folder.name}:{name}"


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["compile", *arguments])


def test_writes_a_file_of_the_models_name_and_says_what_comes_next(folder: Path) -> None:
    result = typed(named(folder, "with_inputs"))
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    assert "next: ingot run with_inputs.ingot" in result.output
    with ingot.load(folder / "with_inputs.ingot") as engine:
        assert engine([[1.0, 2.0, 3.0]]).tolist() == [[2.0, 4.0, 6.0]]
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".ingot", ".tmp")) == ["with_inputs.ingot"]


def test_progress_is_plain_lines_where_nobody_watches(folder: Path) -> None:
    result = typed(named(folder, "with_inputs"), "-o", "m.ingot")
    for step in ("trace", "rewrite", "build", "verify"):
        assert f" s  {step}\n" in result.stderr
    assert "\r" not in result.output


def test_quiet_prints_nothing_and_json_prints_json_alone(folder: Path) -> None:
    assert typed(named(folder, "with_inputs"), "-o", "m.ingot", "--quiet").output == ""
    report = json.loads(typed(named(folder, "with_inputs"), "-o", "m.ingot", "--json").output)
    assert report["verification"] == "full"
    assert report["accuracy"]["outputs"][0]["name"] == "output"


def test_example_inputs_and_shapes_from_the_command_line(folder: Path) -> None:
    np.savez(folder / "in.npz", x=np.ones((2, 5), np.float32))
    result = typed(
        named(folder, "Double"), "--inputs", "in.npz", "--shape", "x=rows:1..8,width:1..64", "-o", "double.ingot"
    )
    assert result.exit_code == 0, result.output
    with ingot.load(folder / "double.ingot") as engine:
        assert [str(dim) for dim in engine.dims] == ["rows:1..8", "width:1..64"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing-here"], 2, "there is no file or folder 'nothing-here'"),
        (["{}:Double"], 2, "takes example inputs"),
        (["{}:Doubel"], 2, "did you mean Double"),
        (["{}:with_inputs", "-o", "no/such/folder/m.ingot"], 2, "mkdir -p no/such/folder"),
        (["{}:with_inputs", "-o", "."], 2, "is a folder"),
        (["nothing-here", "-o", "/dev/null"], 2, "device, pipe or socket"),
        (["nothing-here", "-o", "no such/m.ingot"], 2, "mkdir -p 'no such'"),
        (["{}:with_inputs", "--target", "cpu, cpu"], 2, "a target is named twice"),
        (["{}:with_inputs", "--target", "toaster"], 2, "no target 'toaster'"),
        (["{}:with_inputs", "--target", "tensorrt-rtx", "--arch", "sm_98"], 2, "sm_75, sm_80, sm_86, sm_89, sm_120"),
        (["{}:with_inputs", "--arch", "sm_89"], 2, "there is no architecture 'sm_89' for cpu"),
        (["{}:with_inputs", "--target", "tensorrt-rtx"], 2, "--arch with some of"),
        (["{}:with_inputs", "--emit", "there"], 2, "--emit writes one TensorRT target"),
        (["{}:with_inputs", "--target", "tensorrt", "--emit", "d", "-o", "m.ingot"], 2, "no engine file"),
        (["{}:with_inputs", "--shape", "x=batch,3", "--shape", "y=n"], 2, "'y'"),
        (["{}:with_inputs", "--inputs", "none.npz"], 2, "there is no file 'none.npz'"),
        (["{}:branching"], 1, "decides in Python by the values of a tensor"),
        (["{}:with_inputs", "--target", "tensorrt"], 1, "or --emit DIR"),
        (["{}:empty"], 1, "meta device"),
    ],
)
def test_bad_input_gets_its_exit_code_and_leaves_nothing(
    folder: Path, arguments: list[str], code: int, said: str
) -> None:
    result = typed(*(argument.format(f"models_{folder.name}") for argument in arguments))
    assert said in result.output
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert [path.name for path in folder.iterdir() if path.suffix in (".ingot", ".tmp")] == []


def test_an_older_file_survives_a_compile_that_fails(folder: Path) -> None:
    (folder / "m.ingot").write_text("older")
    assert typed(named(folder, "branching"), "-o", "m.ingot").exit_code == 1
    assert (folder / "m.ingot").read_text() == "older"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_at_any_moment_leaves_nothing_or_a_whole_file(
    folder: Path, number: int, code: int, seed: int
) -> None:
    # The moment is drawn: from the imports to the writing of the file.
    wait = 0.5 + 7.5 * np.random.default_rng(seed).random()
    arguments = [sys.executable, "-m", "ingot.cli.main", "compile", named(folder, "with_inputs"), "-o", "m.ingot"]
    with subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(wait)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    # While the interpreter goes down, a signal is the system's to answer; the file is long whole then.
    assert process.returncode in (code, 0, -number), errors
    assert "Traceback" not in errors
    left = sorted(path.name for path in folder.iterdir() if path.suffix in (".ingot", ".tmp") or path.name[0] == ".")
    if left:
        # A signal between the rename and the end of the process: the file is whole.
        assert left == ["m.ingot"], f"after {wait:.2f} s"
        ingot.load(folder / "m.ingot", strict=True).close()
    assert left or process.returncode == code, f"after {wait:.2f} s"


def test_a_full_disk_is_said_and_leaves_nothing(folder: Path) -> None:
    # A limit on the size of files stands in for a full disk: both fail in the middle of a write.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "sys.dont_write_bytecode = True; from ingot.cli.main import main; main()"
    )
    arguments = [sys.executable, "-c", script, "compile", named(folder, "with_inputs"), "-o", "m.ingot"]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert "no room for the file" in done.stderr
    assert [path.name for path in folder.iterdir() if path.suffix in (".ingot", ".tmp")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="tensorrt-rtx has wheels for Linux and Windows")
def test_a_file_for_several_targets_is_built_where_there_is_no_gpu(folder: Path) -> None:
    name = named(folder, "with_inputs")
    result = typed(name, "--target", "tensorrt-rtx,cpu,cuda", "--arch", "sm_89,sm_120", "-o", "all.ingot")
    assert result.exit_code == 0, result.output
    assert "tensorrt-rtx: the lowered graph, on ONNX Runtime" in result.output
    assert "tensorrt-rtx has not run on a GPU yet" in result.output
    report = ingot.check("all.ingot")
    assert [target.name for target in report.targets] == ["tensorrt-rtx", "cuda", "cpu"]
    assert [target.name for target in report.targets if target.runs] == ["cpu"]
    assert next(iter(report.header.members)) == "weights.bin"
    with ingot.load("all.ingot") as engine:
        assert engine.why.startswith("cpu: tensorrt-rtx needs a GPU of sm_89,sm_120")
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert np.array_equal(engine(x), x * 2)
    run = CliRunner().invoke(command, ["run", "all.ingot", "--shape", "batch=2"])
    assert "on cpu: tensorrt-rtx needs a GPU" in run.stderr
    shown = CliRunner().invoke(command, ["inspect", "all.ingot", "--layers"])
    assert "ELEMENTWISE" in shown.output
    assert "not run on a GPU yet" in shown.output


def test_a_build_is_emitted_for_another_machine(folder: Path) -> None:
    result = typed(named(folder, "with_inputs"), "--target", "cpu,tensorrt", "--emit", "there")
    assert result.exit_code == 0, result.output
    assert "python there/finish.py" in result.output
    assert {"finish.py", "header.json", "build", "members"} <= {path.name for path in Path("there").iterdir()}
    assert not list(Path().glob("*.ingot"))
    again = typed(named(folder, "with_inputs"), "--target", "cpu,tensorrt", "--emit", "there")
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_an_engine_for_another_machine_is_there_to_be_saved(folder: Path) -> None:
    import torch

    engine = ingot.compile(torch.nn.ReLU(), torch.ones(2, 3), target="tensorrt-rtx", arch="sm_89")
    with engine:
        with pytest.raises(ingot.EngineError, match="compiled for another machine"):
            engine(np.ones((2, 3), np.float32))
        engine.save(folder / "there.ingot")
    assert not ingot.check(folder / "there.ingot").runs
