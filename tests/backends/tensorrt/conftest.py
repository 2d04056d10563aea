"""Stand-ins for the driver and TensorRT, as the production side finds them; another library's array on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_gpu import FakeGpu, plugged_in
from fake_tensorrt import FakeTensorRt, installed

from ingot.device.context import Cuda, open_cuda


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with plugged_in(fake := FakeGpu()):
        yield fake
        assert fake.current == []


@pytest.fixture
def trt(gpu: FakeGpu) -> Iterator[FakeTensorRt]:
    pytest.importorskip("tensorrt_rtx", reason="the version that is installed is what a plan asks for")
    with installed(fake := FakeTensorRt(gpu)):
        yield fake


@pytest.fixture
def cuda(gpu: FakeGpu) -> Cuda:
    return open_cuda()
