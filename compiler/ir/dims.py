"""What is provable about shapes with named dims: equality, and a reshape's target without computing it at run time."""

from __future__ import annotations

import onnx_ir as ir


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dim is a number."""
    if value is None or value.shape is None:
        return None
    dims = tuple(dim for dim in value.shape if isinstance(dim, int))
    return dims if len(dims) == len(value.shape) else None


def same_dim(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """Whether two dims are provably equal: one number, or one named symbol. Two unnamed dims are not."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.value is not None and a.value == b.value


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values provably have one shape."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def input_symbols(model: ir.Model) -> frozenset[str]:
    """The names of dims that an input brings; the engine refuses a size of zero for them."""
    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    return frozenset(dim.value for shape in shapes for dim in shape if not isinstance(dim, int) and dim.value)


def reshape_target(source: ir.Value, result: ir.Value, nonzero: frozenset[str]) -> tuple[int, ...] | None:
    """The constant that makes Reshape take `source` to `result`: sizes, 0 for a dim kept in its place, one -1.

    None when two dims would need the -1, or when something beside it might be zero at run time: dims named in
    `nonzero` are not. Reshape cannot tell the -1 there.
    """
    if source.shape is None or result.shape is None:
        return None
    target: list[int] = []
    kept: list[str | None] = []
    for axis, dim in enumerate(result.shape):
        if isinstance(dim, int):
            if dim == 0:
                return None
            target.append(dim)
        elif axis < len(source.shape) and same_dim(source.shape[axis], dim):
            target.append(0)
            kept.append(dim.value)
        else:
            target.append(-1)
    if target.count(-1) > 1 or (-1 in target and not nonzero.issuperset(str(name) for name in kept)):
        return None
    return tuple(target)


def expand_target(source: ir.Value, result: ir.Value) -> tuple[int, ...] | None:
    """The constant that makes Expand take `source` to `result`: sizes, 1 for a dim that stays. None when there is
    a named dim that the source does not have."""
    if source.shape is None or result.shape is None:
        return None
    aligned = (None,) * (len(result.shape) - len(source.shape)) + tuple(source.shape)
    target: list[int] = []
    for had, dim in zip(aligned, result.shape, strict=True):
        if isinstance(dim, int):
            target.append(dim)
        elif had is not None and same_dim(had, dim):
            target.append(1)
        else:
            return None
    return tuple(target)
