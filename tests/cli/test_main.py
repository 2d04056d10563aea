"""The command itself: help, versions, exit codes, messages, signals, pipes, and what is imported when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from ingot.cli.main import COMMANDS, INTERRUPTED, ingot
from ingot.errors import EngineError, UsageError
from ingot.version import __version__

Ingot = Callable[..., Result]

PROCESS = [sys.executable, "-m", "ingot.cli.main"]


def test_says_its_version_and_its_commands(run_ingot: Ingot) -> None:
    assert run_ingot("--version").output == f"ingot {__version__}\n"
    shown = run_ingot("--help")
    assert shown.exit_code == 0
    for name, said in COMMANDS.items():
        assert f"  {name}" in shown.output
        assert said in shown.output


def test_every_command_is_there_with_its_help(run_ingot: Ingot) -> None:
    for name in COMMANDS:
        shown = run_ingot(name, "--help")
        assert shown.exit_code == 0
        assert shown.output.startswith(f"Usage: ingot {name}")


@pytest.mark.parametrize("arguments", [["chekc"], ["check"], ["check", "--nonsense"], ["run", "x", "--threads", "0"]])
def test_what_cannot_be_meant_exits_with_2(run_ingot: Ingot, arguments: list[str]) -> None:
    result = run_ingot(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("error", "code"), [(UsageError("typed wrong", fix="this"), 2), (EngineError("broken"), 1)])
def test_an_error_of_ours_is_a_message(
    run_ingot: Ingot, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(path: str, target: str | None) -> None:
        raise error

    monkeypatch.setattr("ingot.cli.check.check_file", fail)
    result = run_ingot("check", "x")
    assert result.exit_code == code
    assert result.stderr == f"Error: {error}\n"
    monkeypatch.setenv("INGOT_DEBUG", "1")
    assert "Traceback" in run_ingot("check", "x").stderr


def test_ctrl_c_is_quiet(run_ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, target: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ingot.cli.check.check_file", interrupted)
    result = run_ingot("check", "x")
    assert result.exit_code == INTERRUPTED
    assert "Traceback" not in result.stderr


def test_can_be_embedded_without_exiting(engine_file: Path) -> None:
    with pytest.raises(click.UsageError):
        ingot.main(["check"], standalone_mode=False)
    assert ingot.main(["check", str(engine_file)], standalone_mode=False) == 0


def test_check_as_a_process_imports_little(engine_file: Path) -> None:
    code = (
        "import sys\nfrom ingot.cli.main import ingot\ningot.main(['check', sys.argv[1]], standalone_mode=False)\n"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'importlib.metadata'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(engine_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_process_with_their_codes(engine_file: Path, number: int, code: int) -> None:
    command = [*PROCESS, "run", str(engine_file), "--repeat", "1000000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    assert "half-written" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_inside_an_exec_keeps_its_code(tmp_path: Path, number: int, code: int) -> None:
    """Where KeyboardInterrupt ended the `exec` of a text, as dataclasses do, `python -m` kills itself at exit."""
    script = f"""
import signal, sys
import ingot.cli.check as check
from ingot.cli.main import main
check.check_file = lambda *args, **options: exec("signal.raise_signal({int(number)})", {{"signal": signal}})
sys.argv = ["ingot", "check", "x"]
main()
"""
    (tmp_path / "interrupted.py").write_text(script)
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "half-written" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(engine_file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROCESS, "inspect", str(engine_file)], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [["check"], ["inspect"], ["inspect", "--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_line(
    engine_file: Path, arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        command = [*PROCESS, *arguments, str(engine_file)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "Error: the output cannot be written (No space left on device)\n"


def test_another_error_of_the_system_keeps_its_trace(run_ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, target: str | None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ingot.cli.check.check_file", fail)
    assert isinstance(run_ingot("check", "x").exception, OSError)


def test_a_message_prints_without_control_characters(run_ingot: Ingot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, target: str | None) -> None:
        raise EngineError("\x1b[2J\ud800", fix="this")

    monkeypatch.setattr("ingot.cli.check.check_file", fail)
    assert run_ingot("check", "x").stderr == "Error: \\x1b[2J\\ud800\n  try:   this\n"
