"""The two TensorRTs: what each is called, what it builds for, and which precisions an architecture has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the TensorRTs.

    name                   of the target
    distribution           what pip installs; `module` what Python imports
    extra                  of ours, that brings the distribution
    archs                  the GPU architectures that it builds for
    builds_without_gpu     false: the plan is for the GPU of the machine that builds
    one_plan_for_archs     true: a list of architectures goes into one plan
    timing_cache           kernels are timed while building, and the times are worth keeping
    cuda                   what the plan needs of the driver
    """

    name: str
    distribution: str
    module: str
    extra: str
    archs: tuple[str, ...]
    builds_without_gpu: bool
    one_plan_for_archs: bool
    timing_cache: bool
    cuda: str


FLAVOURS: Mapping[str, Flavour] = {
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        distribution="tensorrt-rtx",
        module="tensorrt_rtx",
        extra="tensorrt-rtx",
        archs=("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"),
        builds_without_gpu=True,
        one_plan_for_archs=True,
        timing_cache=False,
        cuda=">=13.0",
    ),
    "tensorrt": Flavour(
        name="tensorrt",
        distribution="tensorrt",
        module="tensorrt",
        extra="tensorrt",
        archs=("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121"),
        builds_without_gpu=False,
        one_plan_for_archs=False,
        timing_cache=True,
        cuda=">=13.0",
    ),
}

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "sm_75": ("f32", "f16", "int8"),
    "sm_80": ("f32", "f16", "int8", "bf16", "int4"),
    "sm_86": ("f32", "f16", "int8", "bf16", "int4"),
    "sm_89": ("f32", "f16", "int8", "bf16", "int4", "fp8"),
    "sm_90": ("f32", "f16", "int8", "bf16", "int4", "fp8"),
    "sm_100": ("f32", "f16", "int8", "bf16", "int4", "fp8", "fp4"),
    "sm_103": ("f32", "f16", "int8", "bf16", "int4", "fp8", "fp4"),
    "sm_110": ("f32", "f16", "int8", "bf16", "int4", "fp8", "fp4"),
    "sm_120": ("f32", "f16", "int8", "bf16", "int4", "fp8", "fp4"),
    "sm_121": ("f32", "f16", "int8", "bf16", "int4", "fp8", "fp4"),
}

LACKING: Mapping[tuple[str, str, str], str] = {
    ("tensorrt-rtx", "sm_75", "f32 matrix product"): "f16 matrix products",
}
"""(target, architecture, what is computed) that fails though the precision is there, and what works instead."""
