"""The cuda target's compile side: every node's place in the header, one copy of the weights, and a proof on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ingot.backends.contract import BuildOptions, UnprovenError
from ingot.backends.cpu.build import BUILDER as CPU
from ingot.backends.cuda.build import BUILDER, GRAPH
from ingot.backends.onnxruntime.pack import WEIGHTS
from ingot.errors import UnsupportedOperatorError
from ingot.file.header import Target
from ingot.file.read import EngineFile
from ingot.file.write import Part
from ingot.ir.provenance import MODULE, SOURCE
from ingot.models.handmade import ENCODER, ENCODER_SIGNATURE, encoder_table
from ingot.runtime.metrics import measure
from ingot.runtime.open import open_engine
from ingot.signature import Dim, Signature, Tensor

Model = Callable[..., ir.Model]

SIGNATURE = Signature(
    (Tensor("x", "float32", ("n", 32)),),
    (Tensor("y", "float32", ("n", 33)),),
    (Dim("n"),),
    {"x": {"tensor": 0}},
    {"tensor": 0},
)


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    return BuildOptions(threads=1, folder=tmp_path, signature=SIGNATURE)


def content(part: Part) -> bytes:
    return b"".join(bytes(chunk) for chunk in part.chunks())


def linear(model: Model, seed: int) -> tuple[ir.Model, Any, Any]:
    generator = np.random.default_rng(seed)
    w, x = (generator.standard_normal(shape).astype(np.float32) for shape in ((32, 33), (5, 32)))
    return model("g (float[n, 32] x) => (float[n, 33] y) { a = MatMul(x, w)  y = Elu(a) }", w=w), w, x


def test_the_header_says_what_it_needs_and_what_stays_on_the_processor(model: Model, options: BuildOptions) -> None:
    made = model("g (float[n, 32] x) => (float[m, 32] y) { s = Shape(x)  t = Add(s, s)  y = Expand(x, t) }")
    built = BUILDER.build(made, options)
    assert built.target == Target(
        "cuda",
        {"graph": GRAPH, "weights": WEIGHTS},
        {"onnxruntime-gpu": ">=1.31", "cuda": ">=13.0", "gpu": ""},
        {"optimization": "basic", "on_processor": {"Add": 1}, "proven": False},
    )
    assert built.notes == {"nodes": 3, "on the GPU": 2, "on the processor": {"Add": 1}}


def test_the_weights_are_the_cpu_targets_to_the_byte(model: Model, options: BuildOptions, seed: int) -> None:
    """Though the graphs differ: the one for the GPU is of an older operator set."""
    made, w, _ = linear(model, seed)
    parts = [{part.name: content(part) for part in target.build(made, options).parts} for target in (BUILDER, CPU)]
    assert parts[0][WEIGHTS] == parts[1][WEIGHTS] == w.tobytes()
    versions = [
        onnx.load_from_string(each[name]).opset_import[0].version
        for each, name in zip(parts, (GRAPH, "cpu/graph.onnx"), strict=True)
    ]
    assert versions == [21, 24]


def test_a_file_with_both_targets_has_the_weights_once_and_runs(encoder: Path, seed: int) -> None:
    with EngineFile.open(encoder) as file:
        assert [target.name for target in file.header.targets] == ["cuda", "cpu"]
        assert len({target.members["weights"] for target in file.header.targets}) == 1
        assert file.read(WEIGHTS) == encoder_table(seed).tobytes()
    with open_engine(encoder, target="cpu", threads=1) as engine:
        np.testing.assert_allclose(engine([[7]], [[1]]).embedding[0], encoder_table(seed)[7], atol=1e-6)


def test_the_very_graph_is_proven_on_the_processor(model: Model, options: BuildOptions, seed: int) -> None:
    made, w, x = linear(model, seed)
    (proof,) = BUILDER.build(made, options).proofs
    assert "CPU provider" in proof.what
    product = (x.astype(np.float64) @ w).astype(np.float32)
    for _ in range(2):
        with closing(proof.open()) as session:
            (found,) = session.run([x])
            assert measure(np.where(product > 0, product, np.expm1(product)), found, "float32").holds


def test_a_proof_that_the_processor_cannot_give_says_why(model: Model, options: BuildOptions) -> None:
    made = model("g (bfloat16[n, 32] x) => (bfloat16[n, 32] y) { y = Softmax(x) }")
    (proof,) = BUILDER.build(made, options).proofs
    with pytest.raises(UnprovenError, match="Softmax") as caught:
        proof.open()
    assert "with the GPU" in str(caught.value.fix)


def test_all_nodes_without_a_kernel_are_named_at_once_with_their_lines(model: Model, options: BuildOptions) -> None:
    wrong = model("g (float[n, 32] x) => (float[n, 32] y) { a = Tan(x)  b = Exp(a)  y = Atan(b) }")
    for index, node in enumerate(wrong.graph):
        node.metadata_props.update({MODULE: "head", SOURCE: f"model.py:{index + 1}: f(x)"})
    with pytest.raises(UnsupportedOperatorError, match="target cuda does not run 2") as caught:
        BUILDER.build(wrong, options)
    assert "no CUDA kernel for Tan" in caught.value.what
    assert "model.py:1" in caught.value.what
    assert "model.py:3" in caught.value.what
    assert "model.py:2" not in caught.value.what


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_is(model: Model, options: BuildOptions, seed: int) -> None:
    made, w, _ = linear(model, seed)
    first, second = ([content(part) for part in BUILDER.build(made, options).parts] for _ in range(2))
    assert first == second
    assert made.opset_imports[""] == 24
    assert np.array_equal(made.graph.initializers["w"].const_value.numpy(), w)


def test_the_handmade_encoder_has_all_its_nodes_on_the_gpu(model: Model, tmp_path: Path, seed: int) -> None:
    options = BuildOptions(threads=1, folder=tmp_path, signature=ENCODER_SIGNATURE)
    built = BUILDER.build(model(ENCODER, 21, table=encoder_table(seed)), options)
    assert built.target.options["on_processor"] == {}
