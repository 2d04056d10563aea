"""Which of a file's targets is loaded, why, and what is held to its vectors before it is given out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from fake_gpu import FakeGpu, plugged_in
from fake_tensorrt import (
    AFFINE,
    AFFINE_INPUTS,
    AFFINE_OUTPUTS,
    NEEDS,
    FakeTensorRt,
    installed,
    plan_bytes,
    write_engine,
)

from ingot.backends.cpu.load import LOADER as CPU
from ingot.errors import EngineError, RequirementError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.runtime.absent import Absent
from ingot.runtime.check import check_file, check_targets, targets_in_order
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine

GRAPH = """<ir_version: 10, opset_import: ["": 21]> affine (float[batch, 4] x) => (float[batch, 4] y, float[batch] s) {
    two = Constant <value_float = 2.0> ()
    one = Constant <value_float = 1.0> ()
    last = Constant <value_ints = [-1]> ()
    twice = Mul(x, two)
    y = Add(twice, one)
    s = ReduceSum <keepdims = 0> (x, last)
}"""

RTX = Target("tensorrt-rtx", {}, NEEDS)

FULL = Target("tensorrt", {}, {"tensorrt": "==11.4.0.1", "gpu": "sm_90"})


@pytest.fixture
def trt() -> Iterator[FakeTensorRt]:
    """A machine with a GPU of sm_89 and TensorRT for RTX, without the full one."""
    pytest.importorskip("tensorrt_rtx", reason="the target asks whether it is installed")
    gpu = FakeGpu(arch=(8, 9))
    with plugged_in(gpu), installed(fake := FakeTensorRt(gpu)):
        yield fake


def write(path: Path, *targets: Target, operation: str = "affine", cpu: bool = True, selftest: Any = None) -> Path:
    plan = plan_bytes(operation, AFFINE_INPUTS, AFFINE_OUTPUTS)
    graph = onnx.parser.parse_model(GRAPH).SerializeToString()
    others = [(Target("cpu", {"graph": "graph.onnx"}, CPU.needs), {"graph.onnx": graph})] if cpu else []
    return write_engine(path, AFFINE, [(aim, plan) for aim in targets], others=others, selftest=selftest)


def vectors(seed: int) -> dict[str, Any]:
    x = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    return {"user/in/x": x, "user/out/y": x * 2 + 1, "user/out/s": x.sum(-1)}


def names(path: Path) -> Sequence[str]:
    return [target.name for target in check_file(path).targets]


def test_the_best_that_runs_is_taken_whatever_the_order(trt: FakeTensorRt, tmp_path: Path) -> None:
    path = write(tmp_path / "e.ingot", RTX)
    assert names(path) == ["tensorrt-rtx", "cpu"]
    with open_engine(path) as engine:
        assert (engine.target, engine.why) == ("tensorrt-rtx", "tensorrt-rtx: the best of those in the file")
    path = write(tmp_path / "three.ingot", RTX, FULL)
    assert names(path) == ["tensorrt", "tensorrt-rtx", "cpu"]
    with open_engine(path) as engine:
        assert engine.target == "tensorrt-rtx"
        assert engine.why == "tensorrt-rtx: tensorrt needs tensorrt ==11.4.0.1, found none"


def test_any_of_them_can_be_asked_for(trt: FakeTensorRt, tmp_path: Path, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
    path = write(tmp_path / "e.ingot", RTX)
    for name in ("cpu", "tensorrt-rtx"):
        with open_engine(path, target=name) as engine:
            assert (engine.target, engine.why) == (name, f"{name}: asked for")
            assert np.allclose(engine(x).y, x * 2 + 1, atol=1e-6)


def test_without_a_gpu_the_cpu_is_taken_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the target asks whether it is installed")
    path = write(tmp_path / "e.ingot", RTX, FULL)
    with plugged_in(None), open_engine(path) as engine:
        assert engine.target == "cpu"
        assert engine.why == (
            "cpu: tensorrt needs tensorrt ==11.4.0.1, found none; "
            "tensorrt-rtx needs a GPU of sm_89,sm_120, found no NVIDIA driver"
        )


def test_a_missing_gpu_raises_where_it_was_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the target asks whether it is installed")
    path = write(tmp_path / "e.ingot", RTX)
    with plugged_in(None), pytest.raises(RequirementError, match="needs a GPU of sm_89,sm_120, found no NVIDIA driver"):
        open_engine(path, target="tensorrt-rtx")


def test_a_file_without_a_target_that_runs_names_every_lack(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the target asks whether it is installed")
    path = write(tmp_path / "e.ingot", RTX, FULL, cpu=False)
    with plugged_in(FakeGpu(arch=(9, 0))), pytest.raises(RequirementError) as caught:
        open_engine(path)
    assert "target tensorrt: needs tensorrt ==11.4.0.1, found none" in caught.value.what
    assert "target tensorrt-rtx: needs a GPU of sm_89,sm_120, found Fake GPU (sm_90)" in caught.value.what


def test_the_only_target_says_so(tmp_path: Path) -> None:
    with open_engine(write(tmp_path / "e.ingot")) as engine:
        assert engine.why == "cpu: the only one in the file"


def test_what_fails_to_load_is_not_passed_over(trt: FakeTensorRt, tmp_path: Path) -> None:
    """It should run here: another target in its place would hide that it does not."""
    trt.refuse["deserialize"] = "Error Code 1: broken"
    with pytest.raises(EngineError, match="tensorrt-rtx refuses the plan: broken"):
        open_engine(write(tmp_path / "e.ingot", RTX))


def test_of_two_targets_of_one_name_the_one_that_was_judged_is_loaded(trt: FakeTensorRt, tmp_path: Path) -> None:
    with_code = RTX._replace(needs={**NEEDS, "code": "x.so"})
    header = check_file(write(tmp_path / "e.ingot", RTX)).header
    doubled = header._replace(targets=(with_code, header.targets[1]))
    checks = check_targets(doubled, "tensorrt-rtx", allow_code=False)
    assert [check.runs for check in checks] == [False, True]
    assert [target.needs for target in targets_in_order(doubled, "tensorrt-rtx")] == [with_code.needs, NEEDS]


def unproven() -> Target:
    return RTX._replace(options={"proven": False})


def test_what_never_ran_on_a_gpu_is_held_to_its_vectors(trt: FakeTensorRt, tmp_path: Path, seed: int) -> None:
    with open_engine(write(tmp_path / "e.ingot", unproven(), selftest=vectors(seed))) as engine:
        assert engine.why.startswith("tensorrt-rtx: the best of those in the file; it never ran on a GPU before, and ")
        assert engine.why.endswith("holds the self-test vectors here: equal") or "dB at worst" in engine.why
    assert len(trt.contexts) == 1


def test_a_plan_that_computes_something_else_is_not_given_out(trt: FakeTensorRt, tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "e.ingot", unproven(), operation="wrong", selftest=vectors(seed))
    with pytest.raises(EngineError) as caught:
        open_engine(path)
    said = caught.value.what
    assert "target tensorrt-rtx does not compute what the model does: output 'y' has" in said
    assert "dB, and needs 100 dB" in said
    assert "self-test case 'user'" in (caught.value.where or "")
    assert (trt.gpu.used_bytes, trt.gpu.streams) == (0, 0)
    with open_engine(path, target="cpu") as engine:
        assert engine.target == "cpu"


def test_a_target_that_was_proven_is_not_held_again(trt: FakeTensorRt, tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "e.ingot", RTX, operation="wrong", selftest=vectors(seed))
    with open_engine(path) as engine:
        assert "never ran" not in engine.why
    assert trt.contexts == []


def test_without_vectors_it_is_said(trt: FakeTensorRt, tmp_path: Path) -> None:
    with open_engine(write(tmp_path / "e.ingot", unproven())) as engine:
        assert engine.why.endswith("it never ran on a GPU before, and the file has no self-test vectors to hold it to")


def test_damaged_vectors_close_the_engine(trt: FakeTensorRt, tmp_path: Path, seed: int) -> None:
    broken = vectors(seed) | {"user/in/x": np.zeros((3, 4))}
    with pytest.raises(EngineError, match="self-test vectors are not readable"):
        open_engine(write(tmp_path / "e.ingot", unproven(), selftest=broken))
    assert (trt.gpu.used_bytes, trt.gpu.streams) == (0, 0)


def test_an_engine_for_another_machine_says_what_is_lacking_on_the_gpu_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the target asks whether it is installed")
    file = EngineFile.open(write(tmp_path / "e.ingot", RTX, cpu=False))
    lent = FakeArray()
    with (
        plugged_in(None),
        Engine(file, file.header.targets[0], Absent(check_targets(file.header)), threads=1) as made,
    ):
        for call in (
            lambda: made(lent),
            lambda: made.run_device({"x": lent}),
            lambda: made(np.ones((2, 4), "float32")),
        ):
            with pytest.raises(RequirementError, match="needs a GPU of sm_89,sm_120, found no NVIDIA driver"):
                call()


class FakeArray:
    """What another library says of an array on a GPU."""

    def __init__(self) -> None:
        self.__cuda_array_interface__ = {"shape": (2, 4), "typestr": "<f4", "data": (512, False), "version": 3}
