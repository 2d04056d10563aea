"""skip_norm as ONNX's own operators, for runtimes that have no kernel of it."""

from __future__ import annotations

BODY = """
    x_wide = Cast <to = 1> (x)
    residual_wide = Cast <to = 1> (residual)
    weight_wide = Cast <to = 1> (weight)
    sum_wide = Add (x_wide, residual_wide)
    sum = CastLike (sum_wide, x)
    rounded = Cast <to = 1> (sum)
    {norm}
    y = CastLike (y_wide, x)
"""

NORMS = {
    "rms": "y_wide = RMSNormalization <axis = -1, epsilon: float = @epsilon> (rounded, weight_wide)",
    "rms-bias": """scaled = RMSNormalization <axis = -1, epsilon: float = @epsilon> (rounded, weight_wide)
    bias_wide = Cast <to = 1> (bias)
    y_wide = Add (scaled, bias_wide)""",
    "layer": "y_wide = LayerNormalization <axis = -1, epsilon: float = @epsilon> (rounded, weight_wide)",
    "layer-bias": """bias_wide = Cast <to = 1> (bias)
    y_wide = LayerNormalization <axis = -1, epsilon: float = @epsilon> (rounded, weight_wide, bias_wide)""",
}


def body(variant: str) -> str:
    """The statements of one variant in ONNX's text form, over inputs, outputs and attributes as declared."""
    return BODY.format(norm=NORMS[variant])
