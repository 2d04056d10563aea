"""lower_attention: TRT_Attention or products with the meaning that ONNX's own reference gives Attention."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnx_ir as ir
import pytest

from ingot.backends.tensorrt.lowering.attention_body import OPERATOR
from ingot.backends.tensorrt.lowering.lower_attention import LowerAttention
from ingot.backends.tensorrt.proof import ort_session
from ingot.ir.provenance import MODULE
from ingot.passes.contract import PassReport, run_passes
from ingot.passes.infer_shapes import InferShapes
from ingot.runtime.metrics import measure
from ingot.signature import Signature, Tensor

Array = np.ndarray[Any, Any]

SIZES = {"B": 3, "S": 4, "K": 7, "P": 5, "T": 9}
FORM = "{dtype}[B, {heads}, S, {size}] q, {dtype}[B, {kv}, {keys}, {size}] k, {dtype}[B, {kv}, {keys}, {v_size}] v"


def build(call: str, more: str = "", outputs: str = "", **form: Any) -> ir.Model:
    """`call` is Attention with its attributes and inputs, `more` inputs besides q, k, v."""
    form = {"dtype": "float", "heads": 4, "kv": 4, "size": 8, "keys": "K", **form}
    form.setdefault("v_size", form["size"])
    given = FORM.format(**form) + more.format(**form)
    result = f"{form['dtype']}[B, {form['heads']}, S, {form['v_size']}] y" + outputs.format(**form)
    names = ", ".join(_names(result))
    text = f'<ir_version: 11, opset_import: ["": 24]> g ({given}) => ({result}) {{ {names} = {call} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    for node in model.graph:
        node.metadata_props[MODULE] = "attention"
    return model


def _names(declared: str) -> list[str]:
    """Of "float[B, 4] y, float[B] z": y, z."""
    return [piece.split(",")[0].strip() for piece in declared.split("]")[1:] if piece.strip(", ")]


def lowered(model: ir.Model) -> tuple[ir.Model, PassReport]:
    found = ir.from_proto(ir.to_proto(model))
    run_passes(found, [InferShapes()])
    (report,) = run_passes(found, [LowerAttention()])
    return found, report


def draw(model: ir.Model, seed: int, lengths: tuple[int, int, int] = (7, 3, 4)) -> list[Array]:
    generator = np.random.default_rng(seed)
    arrays: list[Array] = []
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else SIZES[str(dim)] for dim in value.shape]
        if value.dtype == ir.DataType.BOOL:
            arrays.append(generator.integers(0, 2, shape).astype(bool))
        elif value.dtype.is_integer():
            arrays.append(np.array(lengths, value.dtype.numpy()))
        else:
            arrays.append(generator.standard_normal(shape).astype(value.dtype.numpy()))
    return arrays


def check(model: ir.Model, seed: int, *, operator: str = OPERATOR, **options: Any) -> ir.Model:
    """Lowers, runs both on the same fresh inputs, and holds them to the floor; a second run changes nothing."""
    arrays = draw(model, seed, **options)
    names = [str(value.name) for value in model.graph.inputs]
    reference = onnx.reference.ReferenceEvaluator(ir.to_proto(model))
    with np.errstate(all="ignore"):
        expected = reference.run(None, dict(zip(names, arrays, strict=True)))
    found, report = lowered(model)
    assert report.rewrites == 1
    assert all(MODULE in node.metadata_props for node in found.graph), "a node lost its origin"
    operators = [node.op_type for node in found.graph]
    assert operator in operators
    assert "Attention" not in operators
    (again,) = run_passes(found, [LowerAttention()])
    assert again.rewrites == 0, "a second run changed something"
    signature = Signature(tuple(map(_tensor, found.graph.inputs)), tuple(map(_tensor, found.graph.outputs)), (), {}, {})
    bits = [array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array for array in arrays]
    got = ort_session(found, signature).run(bits)
    for tensor, before, after in zip(signature.outputs, expected, got, strict=True):
        before = before.view(np.uint16) if before.dtype == ml_dtypes.bfloat16 else before
        # The reference rounds every step to the inputs' dtype: it errs as much as the floors allow.
        result = measure(before, after, tensor.dtype, floor_db={"float16": 45.0, "bfloat16": 30.0}.get(tensor.dtype))
        assert result.holds, (tensor.name, result)
    return found


def _tensor(value: ir.Value) -> Tensor:
    assert value.dtype is not None
    return Tensor(str(value.name), str(value.dtype.numpy().name), ())


def attention(model: ir.Model) -> ir.Node:
    (found,) = (node for node in model.graph if node.op_type == OPERATOR)
    return found


def said(node: ir.Node) -> tuple[str, list[bool]]:
    """The causal kind, and which of mask, query lengths and key lengths it has."""
    given = [*(value is not None for value in node.inputs[3:]), False, False, False][:3]
    return node.attributes.get_string("causal_kind"), given


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("kv", [4, 2, 1])
def test_rewrites_plain_attention(seed: int, dtype: str, kv: int) -> None:
    node = attention(check(build("Attention(q, k, v)", dtype=dtype, kv=kv), seed))
    assert said(node) == ("none", [False, False, False])
    assert len(node.inputs) == 3


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_rewrites_a_scale_into_a_product_of_the_queries(seed: int, scale: float) -> None:
    found = check(build(f"Attention <scale = {scale}> (q, k, v)"), seed)
    assert [node.op_type for node in found.graph].count("Mul") == (scale != 1.0)


def test_rewrites_causal_from_the_upper_left(seed: int) -> None:
    """S is not K: from the lower right, every query would see more."""
    assert said(attention(check(build("Attention <is_causal = 1> (q, k, v)"), seed))) == ("upper_left", [False] * 3)


PAST = ", {dtype}[B, {kv}, P, {size}] past_k, {dtype}[B, {kv}, P, {size}] past_v"
PRESENT = ", {dtype}[B, {kv}, T, {size}] new_k, {dtype}[B, {kv}, T, {size}] new_v"


@pytest.mark.parametrize("kv", [4, 2])
def test_rewrites_causal_behind_a_past_from_the_lower_right(seed: int, kv: int) -> None:
    model = build("Attention <is_causal = 1> (q, k, v, , past_k, past_v)", PAST, PRESENT, kv=kv, keys="S")
    assert said(attention(check(model, seed))) == ("lower_right", [False] * 3)


def test_rewrites_causal_to_a_mask_where_a_past_has_more_new_keys_than_queries(seed: int) -> None:
    """The diagonal begins behind the past, and does not end in the corner."""
    model = build("Attention <is_causal = 1> (q, k, v, , past_k, past_v)", PAST, PRESENT)
    assert said(attention(check(model, seed))) == ("none", [True, False, False])


def test_rewrites_a_mask_behind_a_past(seed: int) -> None:
    mask = ", bool[B, 1, S, M] mask".replace("M", "12")
    model = build("Attention <is_causal = 1> (q, k, v, mask, past_k, past_v)", mask + PAST, PRESENT)
    assert said(attention(check(model, seed))) == ("none", [True, False, False])


@pytest.mark.parametrize(
    "mask", ["bool[B, 1, S, K]", "bool[B, 4, S, K]", "bool[S, K]", "bool[4, S, K]", "float[B, 1, S, K]", "float[S, K]"]
)
@pytest.mark.parametrize("causal", [0, 1])
def test_rewrites_masks(seed: int, mask: str, causal: int) -> None:
    """Drawn masks of seven keys leave some row without any: ONNX gives zeros there."""
    model = build(f"Attention <is_causal = {causal}> (q, k, v, mask)", f", {mask} mask")
    assert said(attention(check(model, seed))) == ("none", [True, False, False])


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_a_row_that_sees_nothing_is_zero(dtype: str) -> None:
    model = build("Attention(q, k, v, mask)", ", bool[S, K] mask", dtype=dtype)
    found, _ = lowered(model)
    arrays = draw(model, 0)
    arrays[3][:] = True
    arrays[3][2] = False
    signature = Signature(tuple(map(_tensor, found.graph.inputs)), tuple(map(_tensor, found.graph.outputs)), (), {}, {})
    (result,) = ort_session(found, signature).run(arrays)
    assert not result[:, :, 2].any()
    assert result[:, :, [0, 1, 3]].all()


def test_rewrites_a_narrow_mask(seed: int) -> None:
    """The keys that it does not reach are not looked at."""
    model = build("Attention(q, k, v, mask)", ", bool[B, 1, S, 5] mask")
    assert said(attention(check(model, seed))) == ("none", [True, False, False])


@pytest.mark.parametrize("kind", ["int64"])
def test_rewrites_lengths(seed: int, kind: str) -> None:
    model = build("Attention(q, k, v, , , , lengths)", f", {kind}[B] lengths")
    node = attention(check(model, seed))
    assert said(node) == ("none", [False, False, True])
    assert node.inputs[5].dtype == ir.DataType.INT32


def test_rewrites_a_length_of_nothing_to_zeros(seed: int) -> None:
    check(build("Attention(q, k, v, , , , lengths)", ", int64[B] lengths"), seed, lengths=(7, 0, 1))


@pytest.mark.parametrize("lengths", [(7, 4, 5), (7, 2, 0)])
def test_rewrites_causal_within_lengths_to_one_mask(seed: int, lengths: tuple[int, int, int]) -> None:
    """From the lower right of each length, of which TensorRT says nothing; some rows see no key."""
    model = build("Attention <is_causal = 1> (q, k, v, , , , lengths)", ", int64[B] lengths")
    assert said(attention(check(model, seed, lengths=lengths))) == ("none", [True, False, False])


def test_rewrites_everything_at_once(seed: int) -> None:
    more = ", bool[B, 1, S, K] mask, int64[B] lengths"
    check(build("Attention <is_causal = 1, scale = 0.2> (q, k, v, mask, , , lengths)", more, kv=2), seed)


@pytest.mark.parametrize(
    ("call", "form"),
    [
        ("Attention <softcap = 2.0> (q, k, v)", {}),
        ("Attention <softcap = 2.0, is_causal = 1> (q, k, v, mask)", {"kv": 2}),
        ("Attention <softmax_precision = 1> (q, k, v, mask)", {"dtype": "float16"}),
        ("Attention(q, k, v, mask)", {"v_size": 16}),
        ("Attention(q, k, v, mask)", {"size": 12, "dtype": "float16"}),
    ],
    ids=["cap", "cap and masks", "precision", "value size", "odd size"],
)
def test_rewrites_what_tensorrt_lacks_to_products(seed: int, call: str, form: dict[str, Any]) -> None:
    check(build(call, ", bool[B, 1, S, K] mask" if "mask" in call else "", **form), seed, operator="Softmax")


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_rewrites_scores_as_an_output(seed: int, mode: int) -> None:
    # The reference gives capped scores for mode 0, which are those of mode 1: no cap there.
    cap = ", softcap = 3.0" if mode else ""
    call = f"Attention <qk_matmul_output_mode = {mode}{cap}> (q, k, v, mask)"
    model = build(call, ", bool[B, 1, S, K] mask")
    node = next(iter(model.graph))
    scores = ir.Value(name="scores", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["B", 4, "S", "K"]))
    outputs = [ir.Value(name="y", type=node.outputs[0].type, shape=node.outputs[0].shape)]
    outputs += [ir.Value(name=""), ir.Value(name=""), scores]
    made = ir.Node("", "Attention", node.inputs, node.attributes.values(), outputs=outputs)
    made.metadata_props[MODULE] = "attention"
    model.graph.outputs[:] = [outputs[0], scores]
    model.graph.remove(node)
    model.graph.append(made)
    check(model, seed, operator="Softmax")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[B, S, 24] q) => (float[B, S, 24] y) { y = Attention <q_num_heads=4, kv_num_heads=4> (q, q, q) }",
         "its heads are joined"),
        ("g (float[B, 4, S, D] q) => (float[B, 4, S, D] y) { y = Attention(q, q, q) }", "the size of its heads"),
        ("g (float[B, 4, S, 8] q, bool[S, M] m) => (float[B, 4, S, 8] y) { y = Attention(q, q, q, m) }",
         "its mask is M wide and its keys S"),
    ],
)  # fmt: skip
def test_declines(text: str, reason: str) -> None:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": 24]> {text}'))
    (report,) = run_passes(model, [LowerAttention()])
    assert report.rewrites == 0
    assert any(reason in declined for declined in report.declined), report.declined


def test_declines_a_window() -> None:
    model = build("Attention <is_causal = 1> (q, k, v)")
    next(iter(model.graph)).attributes["left_window_size"] = ir.AttrInt64("left_window_size", 3)
    (report,) = run_passes(model, [LowerAttention()])
    assert any("no window" in declined for declined in report.declined)
