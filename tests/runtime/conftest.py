"""One small embedding engine, and one with nested inputs and outputs, as files made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot.models.handmade import write_encoder, write_engine
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine
from ingot.signature import Dim, Signature, Tensor

NESTED = """nested (float[batch, 3] left, float[batch, 3] right, float[n] scale) =>
    (float[batch, 3] sum, float[batch, 3] product, int64[1] rows) {
    sum = Add(left, right)
    product = Mul(left, right)
    shape = Shape <end = 1> (sum)
    rows = Identity(shape)
}"""

NESTED_SIGNATURE = Signature(
    inputs=(
        Tensor("batch.left", "float32", ("batch", 3)),
        Tensor("batch.right", "float32", ("batch", 3)),
        Tensor("more.0", "float32", ("2*n + 1",)),
    ),
    outputs=(
        Tensor("sum", "float32", ("batch", 3)),
        Tensor("product", "float32", ("batch", 3)),
        Tensor("rows", "int64", (1,)),
    ),
    dims=(Dim("batch"), Dim("n", 1, 4)),
    parameters={
        "batch": {"dict": {"left": {"tensor": 0}, "right": {"tensor": 1}}},
        "more": {"tuple": [{"tensor": 2}, {"constant": None}]},
        "mode": {"constant": "fast"},
    },
    result={
        "object": {
            "sum": {"tensor": 0},
            "pair": {"tuple": [{"tensor": 1}, {"constant": None}]},
            "info": {"dict": {"rows": {"tensor": 2}}},
        },
        "type": "NestedOutput",
    },
)


@pytest.fixture
def encoder_file(tmp_path: Path, seed: int) -> Path:
    return write_encoder(tmp_path / "encoder.ingot", seed)


@pytest.fixture
def encoder(encoder_file: Path) -> Iterator[Engine]:
    with open_engine(encoder_file, threads=1) as engine:
        yield engine


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Engine]:
    names = {"left": "batch.left", "right": "batch.right", "scale": "more.0"}
    path = write_engine(tmp_path / "nested.ingot", NESTED, NESTED_SIGNATURE, renamed=names)
    with open_engine(path, threads=1) as engine:
        yield engine
