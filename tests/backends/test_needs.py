"""What each need asks of a machine, and what is said where it is not met: the need, what was found, what to type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from fake_gpu import FakeGpu, plugged_in

from ingot.backends import needs
from ingot.backends.needs import unmet
from ingot.errors import FormatError
from ingot.file.header import Target
from ingot.machine import Machine, Unmet

MACHINE = Machine("linux", "x86_64", frozenset({"avx2", "avx512f"}))

Install = Callable[[Mapping[str, str]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Meanwhile these distributions are installed, and no others."""

    def install(versions: Mapping[str, str]) -> None:
        monkeypatch.setattr(needs, "installed_version", versions.get)

    return install


def found(**asked: str) -> list[Unmet]:
    return unmet(Target("any", {}, {name.replace("_", "-"): wanted for name, wanted in asked.items()}), MACHINE)


def test_the_processor() -> None:
    assert found(arch="x86_64", features="avx2,avx512f") == []
    assert found(arch="aarch64,x86_64") == []
    assert found(arch="aarch64") == [Unmet("a processor of aarch64", "x86_64", "compile on aarch64")]
    (lacking,) = found(features="avx2,amx_int8")
    assert lacking[:2] == ("the processor features amx_int8", "x86_64 without")


def test_onnxruntime_by_either_distribution(install: Install) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        install({name: "1.31.1"})
        assert found(onnxruntime=">=1.31") == []
        assert found(onnxruntime=">=2") == [Unmet("onnxruntime >=2", "1.31.1", f"pip install '{name}>=2'")]
    install({})
    assert found(onnxruntime="") == [Unmet("onnxruntime", "none", "pip install 'ingot-compiler[cpu]'")]
    install({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.0"})
    (double,) = found(onnxruntime=">=1.31")
    assert double.found == "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.0 in one place"
    assert double.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'ingot-compiler[cpu]'"


def test_onnxruntime_gpu_alone(install: Install) -> None:
    install({"onnxruntime-gpu": "1.31.1"})
    assert found(onnxruntime_gpu=">=1.31") == []
    assert "pip install 'onnxruntime-gpu>=1.32', or compile" in found(onnxruntime_gpu=">=1.32")[0].fix
    install({})
    assert found(onnxruntime_gpu=">=1.31")[0].fix == "pip install 'ingot-compiler[cuda]'"
    for versions in ({"onnxruntime": "1.31.1"}, {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}):
        install(versions)
        (lacking,) = found(onnxruntime_gpu=">=1.31")
        assert lacking.requirement == "onnxruntime-gpu >=1.31 alone"
        assert lacking.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'ingot-compiler[cuda]'"


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_the_very_tensorrt_that_built_the_plan(install: Install, name: str) -> None:
    asked = {name.replace("-", "_"): "==1.7.1.116"}
    install({name: "1.7.1.116"})
    assert found(**asked) == []
    for versions, has in (({name: "1.8.0.1"}, "1.8.0.1"), ({}, "none")):
        install(versions)
        fix = f"pip install '{name}==1.7.1.116'"
        fix += f", or compile the model again beside {name} {has}" if versions else ""
        assert found(**asked) == [Unmet(f"{name} ==1.7.1.116", has, fix)]
    assert found(**{name.replace("-", "_"): ">=1.7"})[0].fix == f"pip install 'ingot-compiler[{name}]'"


def test_a_gpu_of_an_architecture() -> None:
    with plugged_in(FakeGpu(arch=(8, 9))):
        assert found(gpu="sm_89") == found(gpu="sm_120,sm_89") == found(gpu="") == []
        assert found(gpu="sm_86,sm_120") == [
            Unmet(
                "a GPU of sm_86,sm_120",
                "Fake GPU (sm_89)",
                "ingot compile MODEL --target cuda, which takes any GPU",
            )
        ]
    with plugged_in(FakeGpu(arch=(12, 0))):
        assert found(gpu="sm_120") == []
    with plugged_in(None):
        assert found(gpu="sm_89")[0][:2] == ("a GPU of sm_89", "no NVIDIA driver")
        assert found(gpu="")[0].requirement == "a GPU"


@pytest.mark.parametrize(
    ("target", "here", "fix"),
    [
        ("tensorrt-rtx", (8, 9), "--target tensorrt-rtx --arch sm_86,sm_120,sm_89, or --target cuda"),
        ("tensorrt", (9, 0), "--target tensorrt on this machine, or --target cuda, which takes any GPU"),
        ("tensorrt-rtx", (9, 0), "--target cuda, which takes any GPU; tensorrt-rtx builds for sm_75, sm_80"),
    ],
)
def test_what_is_to_be_rebuilt_is_what_the_target_can_build(target: str, here: tuple[int, int], fix: str) -> None:
    with plugged_in(FakeGpu(arch=here)):
        (lacking,) = unmet(Target(target, {}, {"gpu": "sm_86,sm_120"}), MACHINE)
    assert lacking.fix.startswith(f"ingot compile MODEL {fix}")


def test_of_several_gpus_the_first_that_fits_is_taken() -> None:
    machine = FakeGpu(arch=(7, 5))
    machine.devices, machine.archs = 3, {1: (8, 9), 2: (12, 0)}
    with plugged_in(machine):
        for wanted, number in (("", 0), ("sm_120,sm_89", 1), ("sm_120", 2), ("sm_75", 0)):
            assert found(gpu=wanted) == []
            assert needs.fitting_gpu(Target("any", {}, {"gpu": wanted})) == number
        (lacking,) = found(gpu="sm_86")
        assert lacking.found == "Fake GPU (sm_75), Fake GPU (sm_89), Fake GPU (sm_120)"


@pytest.mark.parametrize(
    ("need", "wanted"),
    [
        ("gpu", "sm_89; rm -rf ~"),
        ("gpu", "89"),
        ("gpu", "sm_89,"),
        ("gpu", "sm_٨٩"),
        ("gpu", ",".join(["sm_89"] * 50000)),
        ("cuda", "$(reboot)"),
        ("cuda", ">=" + "9" * 10),
        ("tensorrt", "==1.0' && reboot '"),
        ("tensorrt", "==1" + ".0" * 100),
        ("moonlight", "x" * 1_000_000),
        ("x" * 1_000_000, ""),
    ],
)
def test_needs_that_nobody_should_be_told_to_type_are_refused(install: Install, need: str, wanted: str) -> None:
    """Whatever is here: what a stranger's file says ends up in a command line for people."""
    install({})
    for machine in (None, FakeGpu()):
        with plugged_in(machine), pytest.raises(FormatError) as caught:
            unmet(Target("any", {}, {need: wanted}), MACHINE)
        assert len(str(caught.value)) < 400


def test_a_driver_that_fails_says_what_cuda_says() -> None:
    broken = FakeGpu()
    broken.fail["cuInit"] = 803
    with plugged_in(broken):
        (lacking,) = found(gpu="sm_89")
    assert "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in lacking.found
    assert lacking.fix.startswith("nvidia-smi, which says more")


def test_a_driver_that_is_new_enough() -> None:
    with plugged_in(FakeGpu(cuda=13010)):
        assert found(cuda=">=13.0") == found(cuda=">=13.1,<14") == []
        (lacking,) = found(cuda=">=13.2")
        assert lacking[:2] == ("a driver for CUDA >=13.2", "one for CUDA 13.1")
        assert "newer NVIDIA driver" in lacking.fix
    with plugged_in(None):
        assert found(cuda=">=13.0") == [], "that there is none is said once, by the need for a GPU"
        assert len(found(cuda=">=13.0", gpu="sm_89")) == 1


def test_needs_keep_their_order_and_unknown_ones_ask_for_a_newer_ingot(install: Install) -> None:
    install({})
    with plugged_in(None):
        lacking = found(gpu="sm_89", arch="aarch64", tensorrt="==11.4", moonlight=">=2", code="x.so")
    assert [item.requirement.split()[0] for item in lacking] == ["a", "a", "tensorrt", "moonlight"]
    assert lacking[-1] == Unmet("moonlight >=2", "an older Ingot", "pip install --upgrade ingot-compiler")


@pytest.mark.parametrize("need", ["onnxruntime", "tensorrt", "cuda"])
def test_a_range_that_is_none_is_the_files_fault(install: Install, need: str) -> None:
    install({"onnxruntime": "1.31.1", "tensorrt": "11.4"})
    with plugged_in(FakeGpu()), pytest.raises(FormatError, match="not a range"):
        found(**{need: "new"})


def test_every_need_is_tested() -> None:
    tested = {"arch", "features", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "gpu", "cuda"}
    assert {*needs._JUDGES, "gpu"} == tested
