"""The models that engines for GPUs are built of: ten architectures, each in the dtypes that it is shipped in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ingot.models import architectures, cached_llama, minilm, quantized, skip_norms
from ingot.models.example import Example


@dataclass(frozen=True, slots=True)
class Subject:
    """`build` makes the model from a seed; `product` whether it multiplies matrices in `dtype`, which sm_75 lacks in
    float32."""

    name: str
    build: Callable[[int], Example]
    dtype: str
    product: bool = True


def halved(build: Callable[[int], Example]) -> Callable[[int], Example]:
    """The same model in float16, weights and floating inputs."""

    def half(seed: int) -> Example:
        example = build(seed)
        example.module.half()
        kwargs = {name: _half(value) for name, value in example.kwargs.items()}
        return replace(example, args=tuple(_half(value) for value in example.args), kwargs=kwargs)

    return half


def _half(value: Any) -> Any:
    return value.half() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _cached(dtype: torch.dtype) -> Callable[[int], Example]:
    return lambda seed: cached_llama.build(seed, dtype=dtype)


SMALL = (
    Subject("bert", architectures.bert, "float32"),
    Subject("bert", halved(architectures.bert), "float16"),
    Subject("vit", architectures.vit, "float32"),
    Subject("vit", halved(architectures.vit), "float16"),
    Subject("resnet", architectures.resnet, "float32"),
    Subject("resnet", halved(architectures.resnet), "float16"),
    Subject("gpt2", architectures.gpt2, "float32"),
    Subject("gpt2", halved(architectures.gpt2), "float16"),
    Subject("llama, linear cache", _cached(torch.float32), "float32"),
    Subject("llama, linear cache", _cached(torch.float16), "float16"),
    Subject("llama, linear cache", _cached(torch.bfloat16), "bfloat16"),
    Subject("whisper encoder", architectures.whisper_encoder, "float32"),
    Subject("whisper encoder", halved(architectures.whisper_encoder), "float16"),
    Subject("t5 encoder", architectures.t5_encoder, "float32"),
    Subject("t5 encoder", halved(architectures.t5_encoder), "float16"),
    Subject("unet block", architectures.unet_block, "float32"),
    Subject("unet block", halved(architectures.unet_block), "float16"),
    Subject("skip norms", skip_norms.build, "float32"),
    Subject("skip norms", halved(skip_norms.build), "float16"),
    Subject("int8 net", quantized.build, "float32", product=False),
)
"""Few layers, drawn weights."""

REAL = (
    Subject("MiniLM", minilm.build, "float32"),
    Subject("MiniLM", halved(minilm.build), "float16"),
)
"""The real weights."""
