"""What is provable about shapes with named dims."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from ingot.ir.dims import expand_target, input_symbols, reshape_target, same_dim, same_shape, static_shape

NONZERO = frozenset(["B", "S"])


def value(*dims: int | str | None) -> ir.Value:
    return ir.Value(name="v", shape=ir.Shape(dims))


def test_two_unknown_dims_are_not_the_same():
    assert same_dim(3, 3)
    assert same_dim(ir.SymbolicDim("B"), ir.SymbolicDim("B"))
    assert not same_dim(ir.SymbolicDim("B"), ir.SymbolicDim("S"))
    assert not same_dim(ir.SymbolicDim(None), ir.SymbolicDim(None))
    assert not same_dim(ir.SymbolicDim("3"), 3)
    assert same_shape(value("B", 2), value("B", 2))
    assert not same_shape(value("B"), value("B", 1))
    assert not same_shape(value(None), value(None))
    assert not same_shape(value(), ir.Value(name="unknown"))


def test_static_shape():
    assert static_shape(value(2, 3)) == (2, 3)
    assert static_shape(value()) == ()
    assert static_shape(value(2, "B")) is None
    assert static_shape(ir.Value(name="unknown")) is None


def test_input_symbols():
    inputs = [value("B", 3), value("S", None)]
    model = ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 20}), ir_version=10)
    assert input_symbols(model) == {"B", "S"}


@pytest.mark.parametrize(
    ("source", "result", "target"),
    [
        (("B", "S", 6), ("B", "S", 2, 3), (0, 0, 2, 3)),
        (("B", "S", 2, 3), ("B", "S", 6), (0, 0, 6)),
        (("B", 4), (4, "B"), (4, -1)),
        (("B", "S"), ("S", "B"), None),
        (("B", "S"), ("B*S",), (-1,)),
        ((None, 4), (None, 4), (-1, 4)),
        (("Z", "S"), ("Z", 1, "S"), None),
        (("Z", 4), ("Z", 2, 2), (0, 2, 2)),
        (("B", 0), (0, 3), None),
        (("B",), (), ()),
    ],
)
def test_reshape_target(source, result, target):
    assert reshape_target(value(*source), value(*result), NONZERO) == target


def test_reshape_target_of_unknown_shapes():
    assert reshape_target(ir.Value(name="unknown"), value(1), NONZERO) is None
    assert reshape_target(value(1), ir.Value(name="unknown"), NONZERO) is None


@pytest.mark.parametrize(
    ("source", "result", "target"),
    [
        (("B", 1), ("B", 4), (1, 4)),
        (("S",), (2, 3, "S"), (2, 3, 1)),
        ((1,), ("B",), None),
        (("S",), ("B", "S"), None),
        ((), (2, 0), (2, 0)),
    ],
)
def test_expand_target(source, result, target):
    assert expand_target(value(*source), value(*result)) == target
