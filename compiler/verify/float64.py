"""Runs a module in float64, whatever dtypes its code names: the measure of the module's own rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Widen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operator takes and gives float64 for each narrower float, so that `x.float()` inside a norm and
    `softmax(dtype=torch.float32)` round nothing either."""

    def __torch_dispatch__(
        self, operator: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return tree_map(_wide, operator(*tree_map(_wide, args), **tree_map(_wide, kwargs or {})))


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in NARROW:
        return value.double()
    if isinstance(value, torch.dtype) and value in NARROW:
        return torch.float64
    return value


def widened_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with float64 weights; the narrow weights are never copied, so it costs twice float32's bytes."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.dtype in NARROW:
            wide = tensor.detach().double()
            memo[id(tensor)] = torch.nn.Parameter(wide, False) if isinstance(tensor, torch.nn.Parameter) else wide
    return copy.deepcopy(module, memo)


@contextmanager
def in_float64() -> Iterator[None]:
    """Inside, every torch operator computes in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(default)
