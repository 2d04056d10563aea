"""A tensor's bytes, piece by piece, are its bytes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from ingot.ir.weights import CHUNK_BYTES, chunks


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((3, 5), "smaller than a tile"),
        ((65, 257), "a tile and one more each way"),
        ((20, 70_000), "rows above a chunk's share"),
        ((), "a scalar"),
        ((0, 4), "nothing"),
        ((2, 3, 4), "three axes"),
        ((2, 600, 1000), "three axes, an inner block above a chunk"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, ml_dtypes.bfloat16])
def test_bytes(seed, shape, why, dtype):
    array = np.random.default_rng(seed).integers(-100, 100, shape).astype(dtype)
    for laid_out in (array, np.asfortranarray(array), array.T):
        tensor = ir.tensor(laid_out)
        assert b"".join(chunks(tensor)) == np.ascontiguousarray(laid_out).tobytes(), why


def test_a_contiguous_weight_is_not_copied():
    array = np.zeros((1 << 21,), np.float32)
    pieces = list(chunks(ir.tensor(array)))
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES]
    assert all(np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in pieces)


def test_a_transposed_weight_is_never_whole_in_memory():
    array = np.zeros((2000, 3000), np.float32)
    assert max(len(piece) for piece in chunks(ir.tensor(array.T))) <= CHUNK_BYTES


def test_elements_smaller_than_a_byte():
    tensor = ir.tensor([1, 2, 3], dtype=ir.DataType.INT4)
    assert b"".join(chunks(tensor)) == tensor.tobytes()


def test_strings_are_refused():
    with pytest.raises(TypeError, match="strings"):
        list(chunks(ir.StringTensor([b"a"], shape=ir.Shape([1]), name="words")))
