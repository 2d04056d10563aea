"""The harness's arithmetic: bar lines, what holds, samples in turn, paired medians."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ingot
from benchmarks import __main__ as command
from benchmarks import determinism, embedder, facts, processes
from benchmarks.catalogue import BENCHMARKS
from benchmarks.harness import (
    Bar,
    Benchmark,
    Result,
    Table,
    Unmeasured,
    bar_lines,
    geometric_mean,
    milliseconds,
    paired_speedup,
    sampler,
    take_turns,
)

FASTER = Bar("faster", "least", 1.15, "x")
NOT_SLOWER = Bar("not_slower", "least", 1.0, "x", equal=True)
QUICK = Bar("quick", "most", 80, "ms")
NONE = Bar("children", "most", 0)


@pytest.mark.parametrize(
    ("bar", "value", "line"),
    [
        (FASTER, 1.15, "bar faster 1.150x needs >=1.150x holds"),
        (FASTER, 1.149, "bar faster 1.149x needs >=1.150x short"),
        (NOT_SLOWER, 0.97, "bar not_slower 0.9700x needs >=1x holds"),
        (NOT_SLOWER, 0.9699, "bar not_slower 0.9699x needs >=1x short"),
        (QUICK, 80.0, "bar quick 80ms needs <=80ms holds"),
        (QUICK, 80.1, "bar quick 80.10ms needs <=80ms short"),
        (NONE, 0.0, "bar children 0 needs <=0 holds"),
        (NONE, 1.0, "bar children 1 needs <=0 short"),
        (QUICK, math.inf, "bar quick infms needs <=80ms short"),
        (QUICK, math.nan, "bar quick nanms needs <=80ms short"),
        (FASTER, math.nan, "bar faster nanx needs >=1.150x short"),
        (FASTER, math.inf, "bar faster infx needs >=1.150x holds"),
    ],
)
def test_a_bar_is_one_line(bar: Bar, value: float, line: str) -> None:
    assert bar.line(value) == line


def test_a_bar_without_a_value_says_why_on_its_line() -> None:
    lines = bar_lines([FASTER, QUICK], {"quick": 3.0}, "no torch\n  here")
    assert lines == ["bar faster - needs >=1.150x unmeasured no torch here", "bar quick 3ms needs <=80ms holds"]


def test_runs_take_turns() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = take_turns(3, a=lambda: run("a"), b=lambda: run("b"))
    assert order == ["a", "b"] * 3
    assert found == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_a_speed_up_is_the_median_of_pairs() -> None:
    # The machine was three times slower in the second round and both felt it: ratios do not.
    assert paired_speedup([1.0, 3.0, 1.0], [1.5, 4.5, 1.2]) == 1.5
    with pytest.raises(ValueError, match="zip"):
        paired_speedup([1.0], [1.0, 2.0])


def test_means() -> None:
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert milliseconds([0.003, 0.001, 0.2]) == "3 (1)"


def test_a_sample_is_the_seconds_of_one_run_and_long_enough() -> None:
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        time.sleep(0.001)

    sample = sampler(run, sample_seconds=0.02)
    before, began = runs, time.perf_counter()
    seconds = sample()
    elapsed, taken = time.perf_counter() - began, runs - before
    assert taken > 3
    assert 0.001 <= seconds <= elapsed / (taken - 1)


def test_a_table_lines_up() -> None:
    table = Table("title", ("name", "ms"), [("a", "10.5"), ("longer", "3")], "a note")
    assert str(table).splitlines() == ["title", "  name      ms", "  a       10.5", "  longer     3", "  a note"]


def test_what_cannot_be_measured_is_unmeasured_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> Result:
        raise Unmeasured("this machine has no GPU\nand more")

    found = command.measure(Benchmark("gpu", (FASTER, QUICK), fails))
    assert [bar["verdict"] for bar in found["bars"]] == ["unmeasured"] * 2
    assert capsys.readouterr().out.splitlines()[-1] == "bar quick - needs <=80ms unmeasured this machine has no GPU"
    json.dumps(found)


def test_what_was_measured_is_printed_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("numbers", ("name", "ms"), [("a", "1")])
    found = command.measure(Benchmark("one", (QUICK,), lambda: Result([table], {"quick": 81.0}, {"seconds": [1]})))
    assert found["bars"][0]["value"] == 81.0
    assert found["bars"][0]["verdict"] == "short"
    assert found["data"] == {"seconds": [1]}
    assert capsys.readouterr().out.splitlines() == [
        "",
        "one",
        "numbers",
        "  name  ms",
        "  a      1",
        "bar quick 81ms needs <=80ms short",
    ]


def test_names_are_unique_and_an_unknown_one_is_refused() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    bars = [bar.name for benchmark in BENCHMARKS for bar in benchmark.bars]
    assert len(set(names)) == len(names)
    assert len(set(bars)) == len(bars)
    refused = subprocess.run([sys.executable, "-m", "benchmarks", "speed"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "there is no benchmark speed; there are size, " in refused.stderr


def test_memory_is_that_of_the_whole_family_and_not_of_mapped_files(tmp_path: Path) -> None:
    big = tmp_path / "mapped"
    big.write_bytes(bytes(64 << 20))
    child = "import time; held = bytearray(60 << 20); time.sleep(0.5)"
    parent = f"""
import mmap, subprocess, sys
with open({str(big)!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sum(mapped[::4096])
    held = bytearray(30 << 20)
    subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
    peak = processes.peak_anonymous_bytes([sys.executable, "-c", parent])
    assert 90 << 20 < peak < 125 << 20


def test_a_process_that_fails_is_unmeasured_with_its_last_words() -> None:
    code = "import sys; print('one\\ntwo', file=sys.stderr); sys.exit(3)"
    with pytest.raises(Unmeasured, match="ended with 3: one / two"):
        processes.run([sys.executable, "-c", code])
    with pytest.raises(Unmeasured, match="ended with 3"):
        processes.peak_anonymous_bytes([sys.executable, "-c", code])


def test_every_run_tells_machine_and_versions() -> None:
    found = facts.facts()
    assert 0 <= found["busy"] <= 1
    text = facts.told({**found, "busy": 0.4})
    for part in (found["cpu"], *found["features"], f"ingot {ingot.__version__}", "onnxruntime 1.", "others keep 40%"):
        assert part in text
    assert "others keep" not in facts.told({**found, "busy": 0.0})


def test_texts_are_of_all_lengths_and_the_same_every_time() -> None:
    texts = embedder.draw_texts(count=60)
    assert texts == embedder.draw_texts(count=60)
    assert len(set(texts)) == 60
    lengths = sorted(map(len, texts))
    assert lengths[0] < 30
    assert lengths[-1] > 1500
    assert 20 < sum(length < 150 for length in lengths) < 40


def test_two_zips_are_compared_by_bytes_and_place(tmp_path: Path) -> None:
    import zipfile

    def write(name: str, **members: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(zipfile.ZipInfo(member.replace("_", ".")), content)
        return tmp_path / name

    one = write("one", a=b"12", b=b"34", record_json=b"x")
    assert determinism.differences(one, write("same", a=b"12", b=b"34", record_json=b"another record")) == {}
    assert determinism.differences(one, write("bytes", a=b"12", b=b"35")) == {"b": "holds other bytes"}
    assert "lies elsewhere" in determinism.differences(one, write("place", a=b"123", b=b"34"))["b"]
    assert determinism.differences(one, write("less", a=b"12")) == {"b": "is in one of them only"}
