"""skip_norm: a residual is added and the sum normalised, in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    import torch


def skip_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    epsilon: float = 1e-6,
    kind: Literal["rms", "layer"] = "rms",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, sum): sum = x + residual, y = norm(sum) · weight + bias over the last axis.

    x, residual [B, S, H], weight and bias [H], all of one dtype: float32, float16 or bfloat16, computed in float32.
    The sum is rounded to that dtype before it is normalised, as separate operations would do it. For inference: it has
    no gradient. Raises ValueError for what does not fit.
    """
    from ingot.plugins.torch_operators import operators

    y, total = operators()["skip_norm"](x, residual, weight, bias, epsilon=epsilon, kind=kind)
    return y, total
