"""An attention while it is said anew, and what is known of its shapes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter
from ingot.ir.dims import same_dim

Size = int | ir.SymbolicDim


@dataclass(frozen=True, slots=True)
class Call:
    """q [B, N, S, D] is scaled already, k, v [B, Nkv, Skv, D] have the past in front, where there is one: `past` are
    the keys of it."""

    node: ir.Node
    insert: Inserter
    q: ir.Value
    k: ir.Value
    v: ir.Value
    mask: ir.Value | None
    lengths: ir.Value | None
    causal: bool
    past: ir.Value | None


def given(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input."""
    return node.inputs[index] if index < len(node.inputs) else None


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def axis(value: ir.Value | None, index: int) -> Size:
    """One size; of a value whose shape is known."""
    assert value is not None
    assert value.shape is not None
    return value.shape[index]


def shape(value: ir.Value) -> list[Size]:
    assert value.shape is not None
    return list(value.shape)


def broadcast(a: ir.Value, b: ir.Value) -> list[Size]:
    """The shape of both together, each as far as it is known; an axis that only running would tell has no name."""
    left, right = shape(a), shape(b)
    length = max(len(left), len(right))
    ones: list[Size] = [1] * length
    left, right = ones[len(left) :] + left, ones[len(right) :] + right
    return [_together(x, y) for x, y in zip(left, right, strict=True)]


def _together(x: Size, y: Size) -> Size:
    if x == 1 or same_dim(x, y):
        return y
    if y == 1 or isinstance(x, int):
        return x
    return y if isinstance(y, int) else ir.SymbolicDim(None)
