"""skip_norm in Triton: one program a row, which is read once and written twice.

Cost of a row of H elements of w bytes: reads 2·H·w (x, residual) and writes 2·H·w (y, sum); weight and bias, at most
2·H·w, stay in the cache. About 10·H operations, 1.25 a byte in f16: memory bound on every GPU. Expected are 80 to 90 %
of the bandwidth from some thousand rows of H >= 1024 on, less where a decoding step has few rows and the launch counts.
Apart, Add and the norm move 5·H·w: this saves a fifth, and a launch. Not measured on a GPU.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

FUSE_MULTIPLY_ADD = False
"""The bits are then the same under Triton's interpreter, and a memory-bound kernel has the time."""


def block_size(hidden: int) -> int:
    """Elements that a program holds: a power of two."""
    return max(128, 1 << (hidden - 1).bit_length())


def warps(hidden: int) -> int:
    """8 elements a thread up to 4096, the most that keeps an f16 row in 16-byte loads; 16 warps from there on."""
    return min(max(block_size(hidden) // 256, 1), 16)


@triton.jit  # type: ignore[untyped-decorator]
def skip_norm(  # type: ignore[no-untyped-def]
    x,
    residual,
    weight,
    bias,
    y,
    sum,
    epsilon,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    LAYER: tl.constexpr,
    BIAS: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    element = sum.dtype.element_ty
    total = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + start + columns, mask=inside, other=0.0).to(tl.float32)
    rounded = total.to(element)
    tl.store(sum + start + columns, rounded, mask=inside)
    centred = rounded.to(tl.float32)
    if LAYER:
        centred = tl.where(inside, centred - tl.div_rn(tl.sum(centred, axis=0), HIDDEN * 1.0), 0.0)
    mean_square = tl.div_rn(tl.sum(centred * centred, axis=0), HIDDEN * 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean_square + epsilon))
    result = centred * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        result += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + start + columns, result.to(element), mask=inside)


def specialise(*, hidden: int, kind: str, bias: bool) -> dict[str, Any]:
    """The compile-time arguments."""
    return {"HIDDEN": hidden, "BLOCK": block_size(hidden), "LAYER": kind == "layer", "BIAS": bias}
