"""`ingot run`: arrays in and out, drawn inputs, text, timing, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from ingot.models.handmade import encoder_table, write_encoder, write_text_encoder

Ingot = Callable[..., Result]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.npz"
    np.savez(path, ids=np.array([[1, 2, 3]]), mask=np.array([[1, 1, 0]]))
    return path


def test_arrays_in_and_arrays_out(run_ingot: Ingot, engine_file: Path, inputs: Path, tmp_path: Path, seed: int) -> None:
    out = tmp_path / "out.npz"
    result = run_ingot("run", engine_file, "--inputs", inputs, "-o", out, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "embedding  float32  [1, 8]" in result.output
    with np.load(out) as arrays:
        assert np.allclose(arrays["embedding"], encoder_table(seed)[[1, 2]].mean(0), atol=1e-6)


def test_drawn_inputs_follow_sizes_and_seed(run_ingot: Ingot, engine_file: Path) -> None:
    def run(*more: object) -> str:
        result = run_ingot("run", engine_file, "--json", *more)
        assert result.exit_code == 0, result.output
        return json.dumps(json.loads(result.output)["outputs"])

    assert '"shape": [1, 8]' in run()
    first = run("--shape", "batch=3,sequence=5", "--seed", 1)
    assert '"shape": [3, 8]' in first
    assert run("--shape", "batch=3", "--shape", "sequence=5", "--seed", 1) == first
    assert run("--shape", "batch=3,sequence=5", "--seed", 2) != first


def test_repeat_prints_the_time(run_ingot: Ingot, engine_file: Path) -> None:
    assert "of 3 runs, 1 threads" in run_ingot("run", engine_file, "--repeat", 3, "--threads", 1).output
    told = json.loads(run_ingot("run", engine_file, "--repeat", 3, "--json").output)["time"]
    assert told["runs"] == 3
    assert 0 < told["least_s"] <= told["median_s"]


def test_text_goes_in_and_vectors_come_out(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    pytest.importorskip("tokenizers")
    path = write_text_encoder(tmp_path / "e.ingot", seed)
    out = tmp_path / "out.npz"
    result = run_ingot("run", path, "--text", "w1 w2", "--texts", "-", "-o", out, stdin="w3\nw4 w5\n")
    assert result.exit_code == 0, result.output
    assert "w4 w5" in result.output
    with np.load(out) as arrays:
        assert arrays["embedding"].shape == (3, 8)
        wanted = encoder_table(seed)[[1, 3 + 3]].mean(0)
        assert np.allclose(arrays["embedding"][1], wanted, atol=1e-6)
    assert run_ingot("run", path, "--text", "w1", "--prompt-name", "query").exit_code == 0
    refused = run_ingot("run", path, "--text", "w1", "--prompt-name", "none")
    assert refused.exit_code == 2
    assert "has no prompt 'none'; it has 'query', 'document'" in refused.stderr
    assert "try:   --prompt-name query" in refused.stderr


WRONG = [
    (["--shape", "length=3"], "no dim 'length'; it has batch:1.., sequence:1..64"),
    (["--shape", "sequence=65"], "sequence is 65, and may be 1..64"),
    (["--shape", "batch=many"], "gives no size"),
    (["--shape", "batch=²"], "gives no size"),
    (["--shape", f"batch={'9' * 5000}"], "gives no size"),
    (["--shape", f"batch={10**15}"], "batch=1000000000000000"),
    (["--inputs", "missing.npz"], "there is no file 'missing.npz'"),
    (["--inputs", "junk.npz"], "not readable as .npz"),
    (["--inputs", "bent.npz"], "not readable as .npz"),
    (["--inputs", "encrypted.npz"], "not readable as .npz"),
    (["--inputs", "method.npz"], "not readable as .npz"),
    (["--inputs", "huge.npz"], "not readable as .npz"),
    (["--inputs", "one.npy"], "one array without a name"),
    (["--inputs", "objects.npz"], "not readable as .npz"),
    (["--inputs", "other.npz"], "has no input 'x'"),
    (["--inputs", "other.npz", "--shape", "batch=2"], "both given"),
    (["--text", "a", "--shape", "batch=2"], "both given"),
    (["--text", "a"], "carries no tokenizer"),
    (["--prompt-name", "query"], "goes with text"),
    (["--seed", "-1"], "Invalid value for '--seed'"),
    (["--threads", "99999999999"], "no count of threads from 1 to 1024"),
    (["--texts", "latin1.txt"], "not UTF-8"),
    (["--target", "cuda"], "no target 'cuda'"),
    (["-o", "nowhere/out.npz"], "mkdir -p nowhere"),
    (["-o", "."], "is a folder"),
    (["-o", "pipe"], "device, pipe or socket"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(case[0])[:40] for case in WRONG])
def test_what_cannot_be_meant_is_refused(
    run_ingot: Ingot, engine_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(engine_file.parent)
    Path("junk.npz").write_bytes(b"PK\x03\x04junk")
    Path("latin1.txt").write_bytes("größe\n".encode("latin1"))
    np.save("one.npy", np.ones(3))
    np.savez("objects.npz", ids=np.array([None, {}], dtype=object))
    np.savez("other.npz", x=np.ones(3))
    os.mkfifo("pipe")
    write_odd_archives()
    result = run_ingot("run", engine_file, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert [name for name in os.listdir() if name.endswith(".tmp")] == []
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


def write_odd_archives() -> None:
    """Deflated bytes that are none; the bit for encryption; an unknown method of compression; a shape beyond memory."""
    np.savez_compressed("bent.npz", ids=np.ones(100))
    whole = Path("bent.npz").read_bytes()
    begin = 30 + len("ids.npy") + int.from_bytes(whole[28:30], "little")
    Path("bent.npz").write_bytes(whole[:begin] + b"\xff" * 8 + whole[begin + 8 :])
    central = whole.index(b"PK\x01\x02")
    for name, local, listed, value in (("encrypted", 6, 8, 1), ("method", 8, 10, 77)):
        odd = bytearray(whole)
        odd[local] = odd[central + listed] = value
        Path(f"{name}.npz").write_bytes(odd)
    with zipfile.ZipFile("huge.npz", "w") as archive, archive.open("ids.npy", "w") as entry:
        header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(entry, header)


def test_outputs_are_written_as_engine_files_are(run_ingot: Ingot, engine_file: Path, tmp_path: Path) -> None:
    """With the umask's permissions, through a symlink to what it points to."""
    (tmp_path / "link.npz").symlink_to("real.npz")
    before = os.umask(0o027)
    try:
        result = run_ingot("run", engine_file, "-o", tmp_path / "link.npz")
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "link.npz").is_symlink()
    assert stat.S_IMODE((tmp_path / "real.npz").stat().st_mode) == 0o640
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_an_unverified_engine_must_be_allowed(run_ingot: Ingot, tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "off.ingot", seed, verification="off")
    refused = run_ingot("run", path)
    assert refused.exit_code == 1
    assert "--verify off" in refused.stderr
    assert run_ingot("run", path, "--allow-unverified").exit_code == 0


def test_runs_as_a_process_without_the_compiler(engine_file: Path, inputs: Path) -> None:
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnx_ir', 'onnxscript', 'transformers']))\n"
        "from ingot.cli.main import main\nsys.argv[0] = 'ingot'\nmain()"
    )
    command = [sys.executable, "-c", code, "run", str(engine_file), "--inputs", str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "embedding" in done.stdout


def test_threads_in_the_environment_are_a_plain_count(
    run_ingot: Ingot, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("²", "٣", "0", "-1", "", "1025", "9" * 5000):
        monkeypatch.setenv("INGOT_NUM_THREADS", wrong)
        result = run_ingot("run", engine_file)
        assert result.exit_code == 2, wrong
        assert "INGOT_NUM_THREADS is" in result.stderr
