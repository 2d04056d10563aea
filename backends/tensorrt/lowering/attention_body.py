"""What TRT_Attention means, in standard operators: the body that ONNX Runtime runs in its place.

TensorRT documents its attention (IAttention) so: softmax(q · kᵀ + mask) · v over padded [B, N, S, D], without a scale;
k and v may have fewer heads, each read by N / Nkv neighbouring heads of q; the mask is added; upper_left keeps key j
for query i where j <= i, lower_right where j <= i + Skv - S; of each batch's keys the first `lengths[b]` count. The
body computes in float32, for which ONNX Runtime has all kernels; the products of TensorRT's own accumulate in it too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import onnx.parser
import onnx_ir as ir

DOMAIN = "trt"
OPERATOR = "TRT_Attention"
INPUTS = ("q", "k", "v", "mask", "query_lengths", "key_value_lengths")

Causal = Literal["none", "upper_left", "lower_right"]


class Variant(NamedTuple):
    """Which of its parts an attention uses: a function body cannot ask for attributes and absent inputs."""

    causal: Causal = "none"
    mask: bool = False
    lengths: bool = False

    @property
    def overload(self) -> str:
        return f"{self.causal}{'_mask' if self.mask else ''}{'_lengths' if self.lengths else ''}"


def attention_body(variant: Variant, opset: int) -> ir.Function:
    text = f"""<domain: "{DOMAIN}", opset_import: ["": {opset}]>
    {OPERATOR} <causal_kind, TRT_decomposable> ({", ".join(INPUTS)}) => (y) {{
        {_BEGIN} {"".join(_masks(variant))} {_END} }}"""
    function = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    function.overload = variant.overload
    return function


_BEGIN = """
    wide_q = Cast <to = 1> (q)
    wide_k = Cast <to = 1> (k)
    wide_v = Cast <to = 1> (v)
    heads = Shape <start = 1, end = 2> (q)
    kv_heads = Shape <start = 1, end = 2> (k)
    readers = Div (heads, kv_heads)
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    repeats = Concat <axis = 0> (one, one, readers, one, one)
    batch = Shape <start = 0, end = 1> (k)
    k_size = Shape <start = 2> (k)
    v_size = Shape <start = 2> (v)
    k_shape = Concat <axis = 0> (batch, heads, k_size)
    v_shape = Concat <axis = 0> (batch, heads, v_size)
    k_alone = Unsqueeze (wide_k, two)
    v_alone = Unsqueeze (wide_v, two)
    k_repeated = Expand (k_alone, repeats)
    v_repeated = Expand (v_alone, repeats)
    all_k = Reshape (k_repeated, k_shape)
    all_v = Reshape (v_repeated, v_shape)
    turned = Transpose <perm = [0, 1, 3, 2]> (all_k)
    products = MatMul (wide_q, turned)
    never = Constant <value_float = -inf> ()
    zero = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    height = Shape <start = 2, end = 3> (q)
    width = Shape <start = 2, end = 3> (k)
    rows_end = Squeeze (height)
    columns_end = Squeeze (width)
    rows = Range (zero, rows_end, step)
    columns = Range (zero, columns_end, step)
    row = Unsqueeze (rows, one)
"""

_END = """
    weights = Softmax <axis = -1> (scores)
    wide_y = MatMul (weights, all_v)
    y = CastLike (wide_y, q)
"""


def _masks(variant: Variant) -> list[str]:
    """From `products` to `scores`."""
    steps = []
    if variant.mask:
        steps.append("wide_mask = Cast <to = 1> (mask)\n masked = Add (products, wide_mask)\n")
    else:
        steps.append("masked = Identity (products)\n")
    if variant.causal == "upper_left":
        steps.append("last = Identity (row)\n")
    elif variant.causal == "lower_right":
        steps.append("before = Sub (width, height)\n last = Add (row, before)\n")
    if variant.causal != "none":
        steps.append("past = LessOrEqual (columns, last)\n causal = Where (past, masked, never)\n")
    else:
        steps.append("causal = Identity (masked)\n")
    if variant.lengths:
        steps.append("""tall = Constant <value_ints = [-1, 1, 1, 1]> ()
            wide_lengths = Cast <to = 7> (key_value_lengths)
            lengths = Reshape (wide_lengths, tall)
            counts = Less (columns, lengths)
            scores = Where (counts, causal, never)\n""")
    else:
        steps.append("scores = Identity (causal)\n")
    return steps
