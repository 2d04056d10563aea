"""The definition of skip_norm in plain torch."""

from __future__ import annotations

import torch


def skip_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    epsilon: float,
    kind: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x, residual [B, S, H], weight, bias [H] → y, sum [B, S, H]; float64 is computed as such, all else in float32."""
    total = x + residual
    wide = torch.promote_types(total.dtype, torch.float32)
    centred = total.to(wide)
    if kind == "layer":
        centred = centred - centred.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + epsilon)
    y = centred * scale * weight.to(wide)
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(total.dtype), total
