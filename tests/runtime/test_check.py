"""Whether this machine can run a file: from the header alone, in milliseconds, with what to type."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot import installed
from ingot.errors import FormatError, UsageError
from ingot.file.header import Target
from ingot.file.read import AGAIN
from ingot.models.handmade import write_encoder
from ingot.runtime.check import check_file, check_targets
from ingot.runtime.open import open_engine


def test_says_of_each_target_whether_it_runs(tmp_path: Path, seed: int) -> None:
    others = (Target("hal9000", {}, {}), Target("cpu", {}, {"features": "flux_capacitor"}))
    report = check_file(write_encoder(tmp_path / "e.ingot", seed, before=others[:1]))
    assert report.runs
    assert [(target.name, target.runs) for target in report.targets] == [("hal9000", False), ("cpu", True)]
    (unmet,) = report.targets[0].unmet
    assert "knows the target hal9000" in unmet.requirement
    assert "pip install --upgrade" in unmet.fix
    (check,) = check_targets(report.header, "cpu")
    assert check.runs


def test_code_in_a_file_must_be_allowed(tmp_path: Path, seed: int) -> None:
    with_code = Target("cpu", {}, {"onnxruntime": ">=1.31", "code": "a shared library"})
    header = check_file(write_encoder(tmp_path / "e.ingot", seed)).header
    changed = header._replace(targets=(with_code,))
    (refused,) = check_targets(changed, allow_code=False)
    assert "allow_code=True" in refused.unmet[0].fix


def test_bad_files_and_names_are_refused(tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "e.ingot", seed)
    with pytest.raises(UsageError, match="no target 'cuda'"):
        check_file(path, target="cuda")
    with pytest.raises(UsageError):
        check_file(tmp_path / "missing.ingot")
    (tmp_path / "junk.ingot").write_bytes(b"junk" * 100_000)
    with pytest.raises(FormatError):
        check_file(tmp_path / "junk.ingot")


def test_a_format_error_found_late_names_the_file_and_a_fix(tmp_path: Path, seed: int) -> None:
    no_range, no_graph = Target("cpu", {}, {"onnxruntime": "new"}), Target("cpu", {}, {})
    cases: list[tuple[Target, Callable[[Path], object], str]] = [
        (no_range, check_file, "not a range"),
        (no_range, open_engine, "not a range"),
        (no_graph, open_engine, "has no graph"),
    ]
    for target, opener, said in cases:
        path = write_encoder(tmp_path / "e.ingot", seed, before=(target,))
        with pytest.raises(FormatError, match=said) as caught:
            opener(path)
        assert (caught.value.where, caught.value.fix) == (str(path), AGAIN)


GPU_TARGETS = (
    Target("tensorrt-rtx", {}, {"tensorrt-rtx": "==1.7.1.116", "gpu": "sm_89,sm_120", "cuda": ">=13.0"}),
    Target("tensorrt", {}, {"tensorrt": "==11.4.0.1", "gpu": "sm_90", "cuda": ">=13.0"}),
)


def test_the_best_target_stands_first_whatever_the_files_order(tmp_path: Path, seed: int) -> None:
    report = check_file(write_encoder(tmp_path / "e.ingot", seed, before=GPU_TARGETS))
    assert [target.name for target in report.header.targets] == ["tensorrt-rtx", "tensorrt", "cpu"]
    assert [target.name for target in report.targets] == ["tensorrt", "tensorrt-rtx", "cpu"]
    assert report.targets[-1].runs


def imported_by_check(path: Path) -> list[str]:
    code = (
        "import sys, ingot; check = ingot.check; before = set(sys.modules); check(sys.argv[1]); "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_three_targets_are_judged_without_what_running_them_takes(tmp_path: Path, seed: int) -> None:
    """10 ms are few: each module costs up to one."""
    loaded = imported_by_check(write_encoder(tmp_path / "e.ingot", seed, before=GPU_TARGETS))
    assert "ingot.backends.tensorrt.load" in loaded
    heavy = {"tensorrt_rtx", "tensorrt", "onnxruntime", "torch", "dataclasses", "importlib.metadata"}
    heavy |= {"ingot.device", "ingot.backends.tensorrt.flavours", "ingot.backends.tensorrt.session"}
    heavy |= {"ingot.backends.onnxruntime", "ingot.backends.cuda.session"}
    assert heavy & set(loaded) == set()
    assert len(loaded) <= 13, loaded


def test_a_file_for_processors_alone_asks_for_no_driver(tmp_path: Path, seed: int) -> None:
    loaded = imported_by_check(write_encoder(tmp_path / "e.ingot", seed))
    assert loaded == ["ingot.backends.cpu", "ingot.backends.cpu.load", "ingot.backends.needs", "ingot.installed"]


def test_a_second_check_lists_no_folder_again(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, count_calls: Callable[[Callable[[], object]], int]
) -> None:
    path = write_encoder(tmp_path / "e.ingot", seed, before=GPU_TARGETS)
    check_file(path)
    monkeypatch.setattr(installed.os, "listdir", None)
    assert check_file(path).runs
    assert count_calls(lambda: check_file(path)) < 4000
