"""The loader of the target cuda, on stand-ins for the GPU: what it asks of ONNX Runtime and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingot.backends import needs
from ingot.backends.cuda import load as cuda
from ingot.cuda_driver import Driver
from ingot.device import context
from ingot.errors import EngineError, FormatError, RequirementError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.machine import this_machine


def load(path: Path, **changes: Any) -> Any:
    with EngineFile.open(path) as file:
        target = file.header.target("cuda")
        assert target is not None
        return cuda.LOADER.load(file, target._replace(**changes), threads=1)


def test_float32_stays_float32_and_the_placement_is_recorded(encoder: Path, runtime: Any) -> None:
    load(encoder)
    ((name, options),) = runtime.providers
    assert name == "CUDAExecutionProvider"
    assert options["use_tf32"] == "0"
    assert runtime.config == {"record": "1"}


def test_of_two_gpus_the_one_that_fits_is_opened(
    encoder: Path, runtime: Any, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = (gpu.gpu._replace(arch="sm_75"), gpu.gpu._replace(number=1, arch="sm_120"))
    monkeypatch.setattr("ingot.cuda_driver.this_driver", lambda: Driver("13.1", two, None))
    asked: list[int] = []
    monkeypatch.setattr(context, "open_cuda", lambda index: asked.append(index) or gpu)
    load(encoder, needs={"gpu": "sm_89,sm_120"})
    assert asked == [1]
    assert runtime.providers[0][1]["device_id"] == str(gpu.gpu.number)


def test_nodes_that_the_header_tells_of_may_stay_on_the_processor(encoder: Path, runtime: Any) -> None:
    runtime.on_processor = [("Squeeze", "a"), ("Squeeze", "b")]
    load(encoder, options={"on_processor": {"Squeeze": 2}})
    with pytest.raises(EngineError, match="run on the processor what was built for the GPU: Squeeze a, Squeeze b"):
        load(encoder, options={"on_processor": {"Squeeze": 1}})


def test_nothing_else_falls_to_the_processor_unsaid(encoder: Path, runtime: Any, gpu: Any) -> None:
    runtime.on_processor = [("MatMul", f"layer{number}") for number in range(7)]
    with pytest.raises(EngineError, match=r"MatMul layer0, .* and 2 more") as caught:
        load(encoder)
    assert "target='cpu'" in str(caught.value.fix)
    assert gpu.done[-1][0] == "destroy_stream"


def test_a_provider_that_does_not_start_is_an_error_with_its_reason(encoder: Path, runtime: Any) -> None:
    """ONNX Runtime itself would run the whole graph on the processor, with a warning."""
    runtime.starts = False
    runtime.printed = "Failed to load libcublas.so.13"
    with pytest.raises(EngineError, match=r"could not start its CUDA provider: Failed to load libcublas.so.13"):
        load(encoder)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", "memory ran out while the engine was loaded"),
        ("something else", "refuses the engine's graph: something else"),
    ],
)
def test_a_failing_load_is_an_engine_error(encoder: Path, runtime: Any, gpu: Any, error: str, said: str) -> None:
    runtime.error = error
    with pytest.raises(EngineError, match=said) as caught:
        load(encoder)
    assert caught.value.where == str(encoder)
    assert gpu.done[-1][0] == "destroy_stream"


@pytest.mark.parametrize("said", [5, {"Squeeze": "2"}, ["Squeeze"]])
def test_a_header_with_another_form_is_refused(encoder: Path, runtime: Any, said: Any) -> None:
    with pytest.raises(FormatError, match="on_processor"):
        load(encoder, options={"on_processor": said})


@pytest.mark.parametrize("key", ["ep.context_file_path", "session.record_ep_graph_assignment_info"])
def test_a_file_chooses_only_what_is_allowed(encoder: Path, runtime: Any, key: str) -> None:
    with pytest.raises(FormatError, match="may not"):
        load(encoder, options={"config": {key: "0"}})


@pytest.mark.parametrize(
    ("driver", "installed", "requirement", "fix"),
    [
        (Driver(None, (), "no NVIDIA driver"), {"onnxruntime-gpu": "1.31.1"}, "a GPU", "cpu target"),
        (None, {}, "onnxruntime-gpu >=1.31", "ingot-compiler[cuda]"),
        (None, {"onnxruntime": "1.31.1"}, "onnxruntime-gpu >=1.31 alone", "pip uninstall"),
        (None, {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "onnxruntime-gpu >=1.31 alone", "pip uninstall"),
        (None, {"onnxruntime-gpu": "1.30.0"}, "onnxruntime-gpu >=1.31", "onnxruntime-gpu>=1.31"),
        ("12.8", {"onnxruntime-gpu": "1.31.1"}, "a driver for CUDA >=13.0", "newer NVIDIA driver"),
    ],
)
def test_what_the_machine_lacks_is_named(
    encoder: Path,
    gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    driver: Any,
    installed: dict[str, str],
    requirement: str,
    fix: str,
) -> None:
    if driver is not None:
        here = Driver(driver, (gpu.gpu,), None) if isinstance(driver, str) else driver
        monkeypatch.setattr("ingot.cuda_driver.this_driver", lambda: here)
    monkeypatch.setattr(needs, "installed_version", installed.get)
    (lacking,) = cuda.LOADER.unmet(Target("cuda", {}, cuda.LOADER.needs), this_machine())
    assert lacking.requirement == requirement
    assert fix in lacking.fix
    with pytest.raises(RequirementError) as caught:
        load(encoder)
    assert requirement in caught.value.what


def test_a_machine_with_all_of_it_lacks_nothing(gpu: Any) -> None:
    assert cuda.LOADER.unmet(Target("cuda", {}, cuda.LOADER.needs), this_machine()) == []
