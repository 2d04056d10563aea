"""The graph in the form that ONNX Runtime's kernels take, on a processor and on a GPU."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from ingot.backends.onnxruntime.expand_attention_mask import ExpandAttentionMask
from ingot.backends.onnxruntime.lower_integer_bounds import LowerIntegerBounds
from ingot.passes.contract import run_passes


def lower(model: ir.Model) -> ir.Model:
    """A copy of the graph, weights shared, with the bodies of functions in the place of their calls."""
    lowered = model.clone()
    if lowered.functions:
        InlinePass(criteria=lambda function: True)(lowered)
    # ONNX Runtime does so as well: a constant is no node that runs anywhere.
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(lowered)
    run_passes(lowered, [ExpandAttentionMask(), LowerIntegerBounds()])
    return lowered
