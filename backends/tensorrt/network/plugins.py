"""Evaluates the plugin layers of a network by reference functions, found by the plugin's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ingot.backends.tensorrt.network.values import Compute, NotEvaluatedError, Values

Reference = Callable[[Any, Sequence["torch.Tensor | None"]], Sequence[torch.Tensor]]
"""The plugin object, from which fields can be read, and the inputs to the outputs."""


def plugin(layer: Any, references: Mapping[str, Reference]) -> Compute:
    """Raises NotEvaluatedError where `references` has nothing under the plugin's name."""
    inner = layer.plugin
    name = plugin_name(inner)
    if name not in references:
        raise NotEvaluatedError(f"the plugin {name} has no reference to evaluate it by")
    reference = references[name]

    def run(values: Values) -> list[torch.Tensor]:
        return list(reference(inner, values))

    return run


def plugin_name(inner: Any) -> str:
    """Of an IPluginV3 that Python or C++ made."""
    if hasattr(inner, "plugin_name"):
        return str(inner.plugin_name)
    trt = sys.modules[type(inner).__module__]
    core = inner.get_capability_interface(trt.PluginCapabilityType.CORE)
    return str(getattr(core, "plugin_name", "of an unknown name"))
