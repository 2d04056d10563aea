"""From the graph that all targets share to one that TensorRT's parser takes as meant: the ordered list."""

from __future__ import annotations

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.attention_body import DOMAIN
from ingot.backends.tensorrt.lowering.expand_attention_heads import ExpandAttentionHeads
from ingot.backends.tensorrt.lowering.expand_defaults import ExpandDefaults
from ingot.backends.tensorrt.lowering.expand_vectors import ExpandVectors
from ingot.backends.tensorrt.lowering.lower_arg_max import LowerArgMax
from ingot.backends.tensorrt.lowering.lower_attention import LowerAttention
from ingot.backends.tensorrt.lowering.lower_float_range import LowerFloatRange
from ingot.backends.tensorrt.lowering.lower_group_norm import LowerGroupNorm
from ingot.backends.tensorrt.lowering.lower_log_softmax import LowerLogSoftmax
from ingot.backends.tensorrt.lowering.lower_negative_indices import LowerNegativeIndices
from ingot.passes.contract import Pass, run_passes
from ingot.passes.drop_open_mask import DropOpenMask
from ingot.passes.drop_unused import DropUnused
from ingot.passes.fuse_transposes import FuseTransposes
from ingot.passes.infer_shapes import InferShapes
from ingot.passes.merge_common_subexpressions import MergeCommonSubexpressions
from ingot.passes.merge_initializers import MergeInitializers
from ingot.passes.replace_cache_scatter import ReplaceCacheScatter

LAYERS_OF = (DOMAIN, "ingot")
"""The domains whose operators become layers of TensorRT: its own, and plugins."""

IR_VERSION = 13
"""The newest that ONNX Runtime 1.31 loads, for it runs the lowered graph as a proof; the parser takes it too."""


def passes() -> list[Pass]:
    """The ordered list."""
    return [
        InferShapes(),  # of a graph that comes without; what follows decides by shapes and dtypes
        DropOpenMask(),
        ReplaceCacheScatter(),
        ExpandAttentionHeads(),
        LowerAttention(),
        LowerLogSoftmax(),
        LowerGroupNorm(),
        ExpandDefaults(),
        ExpandVectors(),
        LowerFloatRange(),
        LowerNegativeIndices(),
        LowerArgMax(),  # after indices: of ArgMax it is plain that they are not negative
        FuseTransposes(),  # heads that were split twice
        MergeInitializers(),  # layers share one mask: its constants first, then its nodes
        MergeCommonSubexpressions(),
        DropUnused(),
    ]


def lower(model: ir.Model) -> ir.Model:
    """A copy of the graph, weights shared: standard ONNX, and operators of the domain `trt` with a body for each.

    What no pass knows how to say stays as it is; the table of operators refuses it before the builder starts.
    """
    lowered = model.clone()
    lowered.ir_version = min(IR_VERSION, lowered.ir_version)
    run_passes(lowered, passes())
    return lowered


def for_parser(lowered: ir.Model) -> ir.Model:
    """A copy without the bodies, which the parser would take instead of its own layers."""
    bare = lowered.clone()
    for identifier in [identifier for identifier in bare.functions if identifier[0] in LAYERS_OF]:
        del bare.functions[identifier]
    return bare
