"""A model with one call of it, and how the small models get weights that would show a mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Example:
    """A module in eval mode and example inputs; `dynamic_shapes` is torch.export's form by parameter name."""

    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic_shapes: dict[str, Any] = field(default_factory=dict)


def seeded(seed: int, build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Builds a module from a seed without touching torch's own random state.

    Scales, shifts and running statistics are drawn too: left at 1 and 0, a pass that drops them would go unseen.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().eval()
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2.0)
                elif name.endswith("running_mean"):
                    tensor.normal_(0.0, 0.5)
                elif isinstance(tensor, torch.nn.Parameter) and tensor.dim() == 1:
                    tensor.add_(torch.empty_like(tensor).normal_(0.0, 0.2))
    return module


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal float32 values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_ids(seed: int, high: int, *shape: int) -> torch.Tensor:
    """int64 values in 0..high-1."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))
