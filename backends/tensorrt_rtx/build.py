"""Builds the target `tensorrt-rtx`; everything is shared with `tensorrt`."""

from __future__ import annotations

from ingot.backends.tensorrt.build import TensorRtBuilder
from ingot.backends.tensorrt.flavours import FLAVOURS

BUILDER = TensorRtBuilder(FLAVOURS["tensorrt-rtx"])
