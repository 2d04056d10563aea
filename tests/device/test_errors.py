"""The driver's status codes as errors: CUDA's own name, what it means, and what to type."""

from __future__ import annotations

import pytest

from ingot.device.errors import CudaError, OutOfDeviceMemory, error_of, words
from ingot.errors import EngineError, RequirementError


@pytest.mark.parametrize(
    ("status", "kind", "name", "fix"),
    [
        (2, OutOfDeviceMemory, "CUDA_ERROR_OUT_OF_MEMORY", "smaller batch"),
        (3, CudaError, "CUDA_ERROR_NOT_INITIALIZED", "spawn"),
        (100, RequirementError, "CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (101, RequirementError, "CUDA_ERROR_INVALID_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (209, RequirementError, "CUDA_ERROR_NO_BINARY_FOR_GPU", "--arch"),
        (222, RequirementError, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "driver"),
        (700, CudaError, "CUDA_ERROR_ILLEGAL_ADDRESS", "start again"),
        (803, RequirementError, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"),
        (4242, CudaError, "CUDA error 4242", "nvidia-smi"),
    ],
)
def test_a_status_is_told_in_words(status: int, kind: type[EngineError], name: str, fix: str) -> None:
    error = error_of(status, "copying to the GPU")
    assert type(error) is kind
    assert error.what.startswith(f"copying to the GPU failed: {name}")
    assert fix in (error.fix or "")
    assert words(status) in error.what
