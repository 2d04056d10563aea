"""What evaluates our plugins in a parsed network on the CPU: the references that define what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ingot.backends.tensorrt.network.plugins import Reference
from ingot.plugins.torch_operators import REFERENCES


def references() -> Mapping[str, Reference]:
    """By the plugin's name."""
    return dict.fromkeys(REFERENCES, _evaluate)


def _evaluate(plugin: Any, values: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor]:
    """`plugin` is the object of plugin_host; TensorRT gives it the inputs that are there, in declared order."""
    given = dict(zip(plugin.inputs, [value for value in values if value is not None], strict=True))
    inputs = [given.get(spec.name) for spec in plugin.declaration.inputs]
    return REFERENCES[plugin.declaration.name](*inputs, **plugin.attributes)
