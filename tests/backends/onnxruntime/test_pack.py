"""Weights beside the graph: outside of it, once, aligned, and at the places that the graph names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from ingot.backends.onnxruntime.pack import ALIGNMENT, INLINE_BYTES, WEIGHTS, pack
from ingot.backends.onnxruntime.session import LOCATION
from ingot.file.write import FIRST_MEMBER_OFFSET

GRAPH = "some/graph.onnx"

TEXT = """g (float[N, 32] x) => (float[N, 33] y) {
    a = MatMul(x, first)  b = MatMul(x, second)  c = Add(a, b)  y = Add(c, small) }"""


def model(**weights: np.ndarray[Any, Any]) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["": 24]> {TEXT}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(proto)


def test_large_weights_lie_outside_the_graph_once_and_aligned(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = (generator.standard_normal((32, 33)).astype(np.float32) for _ in range(2))
    small = generator.standard_normal(33).astype(np.float32)
    made = model(first=first, second=second, small=small)
    packed = pack(made.clone(), GRAPH)
    parts = {part.name: b"".join(bytes(chunk) for chunk in part.chunks()) for part in packed}
    assert [part.name for part in packed] == [WEIGHTS, GRAPH]
    assert all(len(parts[part.name]) == part.size_bytes for part in packed)
    proto = onnx.load_from_string(parts[GRAPH])
    places = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data}
    assert set(places) == {"first", "second"}
    assert small.nbytes <= INLINE_BYTES
    for name, array in (("first", first), ("second", second)):
        offset = int(places[name]["offset"]) - FIRST_MEMBER_OFFSET
        assert offset % ALIGNMENT == 0
        assert parts[WEIGHTS][offset : offset + array.nbytes] == array.tobytes()
        assert places[name]["location"] == LOCATION.decode()
    assert made.graph.initializers["first"].const_value is not None
    assert np.array_equal(made.graph.initializers["first"].const_value.numpy(), first)


def test_one_tensor_behind_two_names_is_stored_once(seed: int) -> None:
    shared = np.random.default_rng(seed).standard_normal((32, 33)).astype(np.float32)
    made = model(first=shared, second=shared, small=np.zeros(33, np.float32))
    made.graph.initializers["second"].const_value = made.graph.initializers["first"].const_value
    weights, _ = pack(made, GRAPH)
    assert b"".join(bytes(chunk) for chunk in weights.chunks()) == shared.tobytes()


def test_the_offset_of_the_second_weight_is_filled_up_with_zeros(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((32, 33)).astype(np.float32)
    odd = generator.integers(0, 255, 1027).astype(np.uint8)
    made = model(odd=odd, first=first, second=first + 1, small=np.zeros(33, np.float32))
    weights, _ = pack(made, GRAPH)
    data = b"".join(bytes(chunk) for chunk in weights.chunks())
    filled = -len(odd) % ALIGNMENT
    assert data.startswith(odd.tobytes() + bytes(filled) + first.tobytes())
    assert len(data) == weights.size_bytes
