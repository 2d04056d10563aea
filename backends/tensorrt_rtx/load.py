"""The production side of the target `tensorrt-rtx`."""

from __future__ import annotations

from ingot.backends.tensorrt.load import TensorRtLoader

LOADER = TensorRtLoader("tensorrt-rtx")
