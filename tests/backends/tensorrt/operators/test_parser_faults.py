"""One small model for each way in which TensorRT's parser was found to drop or change a meaning in silence.

Each is shown twice: what the parser makes of the model is evaluated and is not what ONNX says; and our way either
refuses the node for that reason or lowers it to something that the parser takes as meant.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from ingot.backends.tensorrt.child.audit import audit
from ingot.backends.tensorrt.lowering.lower import for_parser, lower
from ingot.backends.tensorrt.network.evaluate import EvaluationError, NotEvaluatedError, evaluate
from ingot.backends.tensorrt.operators import table as operators
from ingot.backends.tensorrt.operators.asked import dtype_of
from ingot.passes.contract import run_passes
from ingot.passes.infer_shapes import InferShapes
from ingot.passes.inline_functions import InlineFunctions
from ingot.runtime.metrics import measure

trt = pytest.importorskip("tensorrt_rtx", reason="the parser is TensorRT-RTX's")

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Fault:
    """`graph` is ONNX's text form without its head; `reason` is in the refusal; `opset` imports the standard domain."""

    graph: str
    draw: Callable[[np.random.Generator], Arrays]
    reason: str
    opset: int = 20
    imports: str = ""

    def model(self) -> onnx.ModelProto:
        head = f'<ir_version: 10, opset_import: ["": {self.opset}{self.imports}]>'
        return onnx.parser.parse_model(f"{head} {self.graph}")


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    """Float inputs a, b, c … of these shapes."""

    def draw(random: np.random.Generator) -> Arrays:
        return {chr(97 + i): random.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}

    return draw


def indexed(shape: tuple[int, ...], indices: Any, *others: tuple[int, ...]) -> Callable[[np.random.Generator], Arrays]:
    """Float inputs a, b …, and the indices i."""
    return lambda random: {**normal(shape, *others)(random), "i": np.array(indices, np.int64)}


BOXES = [[0, 0, 1, 1], [0, 5, 1, 6], [0, 9, 1, 10]]


def boxes(classes: int, scores: Callable[[np.random.Generator, tuple[int, ...]], Any]) -> Any:
    return lambda random: {
        "a": np.array([BOXES], np.float32),
        "b": np.asarray(scores(random, (1, classes, 3)), np.float32),
    }


NMS = "m = Constant<value_ints=[3]>() o = Constant<value_float=0.5>()"
ATTENTION = "(float[1,2,3,8] a, float[1,2,5,8] b, float[1,2,5,8] c"

FAULTS: dict[str, Fault] = {
    "attention drops the lengths": Fault(
        f"g {ATTENTION}, int64[1] n) => (float[1,2,3,8] y) {{ y = Attention(a, b, c, , , , n) }}",
        lambda random: {**normal((1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 8))(random), "n": np.array([3], np.int64)},
        "",
        opset=24,
    ),
    "attention drops its window": Fault(
        f"g {ATTENTION}) => (float[1,2,3,8] y)"
        " { y = Attention<left_window_size = 1, right_window_size = 0>(a, b, c) }",
        normal((1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 8)),
        "window",
        opset=25,
    ),
    "float64 becomes float32": Fault(
        "g (double[3] a) => (double[3] y) { y = Exp(a) }",
        lambda random: {"a": random.standard_normal(3)},
        "float64",
    ),
    "Trilu without upper is lower": Fault(
        "g (float[3,4] a) => (float[3,4] y) { y = Trilu(a) }", normal((3, 4)), "upper is not written down"
    ),
    "GRU ignores its layout": Fault(
        "g (float[2,4,3] a, float[1,15,3] b, float[1,15,5] c) => (float[n,t,d,h] y)"
        " { y = GRU<hidden_size = 5, layout = 1>(a, b, c) }",
        normal((2, 4, 3), (1, 15, 3), (1, 15, 5)),
        "layout = 1",
    ),
    "LSTM ignores its layout": Fault(
        "g (float[2,4,3] a, float[1,20,3] b, float[1,20,5] c) => (float[n,t,d,h] y)"
        " { y = LSTM<hidden_size = 5, layout = 1>(a, b, c) }",
        normal((2, 4, 3), (1, 20, 3), (1, 20, 5)),
        "layout = 1",
    ),
    "SpaceToDepth ignores its mode": Fault(
        'g (float[1,2,4,6] a) => (float[1,8,2,3] y) { y = SpaceToDepth<blocksize = 2, mode = "CRD">(a) }',
        normal((1, 2, 4, 6)),
        "mode = CRD",
        opset=28,
    ),
    "QuantizeLinear without zero point makes int8": Fault(
        "g (float[4] a) => (uint8[4] y) { s = Constant<value_float = 0.02>() y = QuantizeLinear(a, s) }",
        lambda random: {"a": random.uniform(2, 4, 4).astype(np.float32)},
        "quantized to uint8",
    ),
    "QuantizeLinear to uint8 makes int8": Fault(
        "g (float[4] a) => (uint8[4] y) <uint8 z = {0}>"
        " { s = Constant<value_float = 0.02>() y = QuantizeLinear(a, s, z) }",
        lambda random: {"a": random.uniform(2, 4, 4).astype(np.float32)},
        "quantized to uint8",
    ),
    "MaxPool counts a window in the padding": Fault(
        "g (float[1,1,5,5] a) => (float[1,1,h,w] y)"
        " { y = MaxPool<kernel_shape = [2,2], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1>(a) }",
        normal((1, 1, 5, 5)),
        "begins in the padding",
    ),
    "LpPool is wrong where a window is cut": Fault(
        "g (float[1,1,6,6] a) => (float[1,1,h,w] y)"
        " { y = LpPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(a) }",
        normal((1, 1, 6, 6)),
        "cut",
    ),
    "GlobalLpPool of p = 1 adds signed values": Fault(
        "g (float[1,2,4,4] a) => (float[1,2,1,1] y) { y = GlobalLpPool<p = 1>(a) }", normal((1, 2, 4, 4)), "p = 1"
    ),
    "GlobalLpPool of p = 3 takes roots of negatives": Fault(
        "g (float[1,2,4,4] a) => (float[1,2,1,1] y) { y = GlobalLpPool<p = 3>(a) }", normal((1, 2, 4, 4)), "p = 3"
    ),
    "Selu has constants of its own": Fault(
        "g (float[4] a) => (float[4] y) { y = Selu(a) }",
        lambda random: {"a": random.uniform(-4, -1, 4).astype(np.float32)},
        "",
    ),
    "Gemm of beta = 0 reads what it leaves out": Fault(
        "g (float[3,4] a, float[4,2] b, float[2] c) => (float[3,2] y) { y = Gemm<beta = 0.0>(a, b, c) }",
        lambda random: {**normal((3, 4), (4, 2))(random), "c": np.full(2, np.inf, np.float32)},
        "beta = 0",
    ),
    "Loop renames an input that is its condition": Fault(
        "g (float[3] a, bool p) => (float[3] y) { n = Constant<value_int = 3>() y = Loop (n, p, a)"
        " <body = b (int64 i, bool q, float[3] s) => (bool r, float[3] t) { r = Identity(q) t = Add(s, s) }> }",
        lambda random: {**normal((3,))(random), "p": np.array(True)},
        "an input of the graph as its condition",
    ),
    "Clip with min above max gives min": Fault(
        "g (float[4] a) => (float[4] y)"
        " { l = Constant<value_float = 2.0>() h = Constant<value_float = 1.0>() y = Clip(a, l, h) }",
        normal((4,)),
        "above max",
    ),
    "OneHot loses negative indices": Fault(
        "g (int64[3] i) => (float[3,4] y)"
        " { d = Constant<value_int = 4>() v = Constant<value_floats = [0.0, 1.0]>() y = OneHot(i, d, v) }",
        lambda random: {"i": np.array([0, -1, 2], np.int64)},
        "may be negative",
    ),
    "ScatterElements leaves negative indices undefined": Fault(
        "g (float[3,4] a, int64[1,4] i, float[1,4] b) => (float[3,4] y) { y = ScatterElements<axis = 0>(a, i, b) }",
        indexed((3, 4), [[-1, 0, 1, -2]], (1, 4)),
        "may be negative",
    ),
    "ScatterND leaves negative indices undefined": Fault(
        "g (float[3,4] a, int64[2,1] i, float[2,4] b) => (float[3,4] y) { y = ScatterND(a, i, b) }",
        indexed((3, 4), [[-1], [0]], (2, 4)),
        "may be negative",
    ),
    "Gather leaves negative indices of a dynamic axis undefined": Fault(
        "g (float[n,4] a, int64[2] i) => (float[2,4] y) { y = Gather(a, i) }",
        indexed((3, 4), [-1, 0]),
        "may be negative",
    ),
    "NonMaxSuppression orders classes by score": Fault(
        f"g (float[1,3,4] a, float[1,2,3] b) => (int64[n,3] y)"
        f" {{ {NMS} l = Constant<value_float = -1.0>() y = NonMaxSuppression(a, b, m, o, l) }}",
        boxes(2, lambda random, shape: random.permuted(np.arange(1, 7)).reshape(shape) / 10 * [[[1], [2]]]),
        "NonMaxSuppression",
    ),
    "NonMaxSuppression without a threshold takes 0": Fault(
        f"g (float[1,3,4] a, float[1,1,3] b) => (int64[n,3] y) {{ {NMS} y = NonMaxSuppression(a, b, m, o) }}",
        boxes(1, lambda random, shape: -random.random(shape)),
        "NonMaxSuppression",
    ),
    "GroupNormalization of one group is of each channel": Fault(
        "g (float[1,4,3,3] a, float[4] b, float[4] c) => (float[1,4,3,3] y)"
        " { y = GroupNormalization<num_groups = 1>(a, b, c) }",
        lambda random: {k: v * 2 + 1 for k, v in normal((1, 4, 3, 3), (4,), (4,))(random).items()},
        "",
        opset=21,
    ),
    "ReduceSumSquare over no axes gives its input": Fault(
        "g (float[2,3] a) => (float[2,3] y) { y = ReduceSumSquare<noop_with_empty_axes = 1>(a) }",
        normal((2, 3)),
        "noop_with_empty_axes",
    ),
    "ReduceL1 over no axes keeps the sign": Fault(
        "g (float[4,3] a) => (float[4,3] y) { y = ReduceL1<noop_with_empty_axes = 1>(a) }",
        normal((4, 3)),
        "noop_with_empty_axes",
    ),
    "ReduceLogSum over no axes takes no log": Fault(
        "g (float[2,3] a) => (float[2,3] y) { y = ReduceLogSum<noop_with_empty_axes = 1>(a) }",
        lambda random: {"a": random.uniform(2, 3, (2, 3)).astype(np.float32)},
        "noop_with_empty_axes",
    ),
    "LogSoftmax is -inf far below the largest": Fault(
        "g (float[2,3] a) => (float[2,3] y) { y = LogSoftmax(a) }",
        lambda random: {"a": (random.permuted([[0, 200, 400], [0, 200, 400]], axis=1)).astype(np.float32)},
        "log of a softmax",
    ),
    "Pad wraps before it cuts": Fault(
        'g (float[1,4] a) => (float[1,4] y) { p = Constant<value_ints=[0,-1,0,1]>() y = Pad<mode = "wrap">(a, p) }',
        normal((1, 4)),
        "wrap",
    ),
    "Resize by a scale goes by the ratio of the sizes": Fault(
        "g (float[1,1,4,4] a) => (float[1,1,h,w] y)"
        ' { s = Constant<value_floats=[1.0,1.0,0.6,0.6]>() y = Resize<mode = "linear">(a, , s) }',
        normal((1, 1, 4, 4)),
        "gives no whole size",
    ),
    "Squeeze of dynamic dims keeps a 1": Fault(
        "g (float[n,3] a) => (float[m] y) { y = Squeeze(a) }", normal((1, 3)), "name the axes"
    ),
    "MatMul of a vector and a batch squeezes the batch": Fault(
        "g (float[4] a, float[n,4,3] b) => (float[n,3] y) { y = MatMul(a, b) }",
        normal((4,), (2, 4, 3)),
        "",
    ),
    "Loop that ends early has scan outputs of the full length": Fault(
        "g (float[3] a, int64 i) => (float[3] x, float[k,3] y)"
        " { t = Constant<value_int=5>() c = Constant<value = bool {1}>() x, y = Loop(t, c, a)"
        " <body = b (int64 j, bool d, float[3] v) => (bool e, float[3] w, float[3] s)"
        " { w = Add(v, v) s = Identity(w) e = Less(j, i) }> }",
        lambda random: {**normal((3,))(random), "i": np.array(1, np.int64)},
        "may end early",
    ),
    "a function named as an operator is taken for it": Fault(
        'g (float[3] a) => (float[3] y) { y = t.Relu(a) } <domain: "t", opset_import: ["": 20]>'
        " Relu (x) => (y) { y = Neg(x) }",
        normal((3,)),
        "",
        imports=', "t": 1',
    ),
    "a function in a function loses its attribute": Fault(
        'g (float[9] a) => (float[9] y) { y = t.f<p = 0.3>(a) } <domain: "t", opset_import: ["": 20, "t": 1]>'
        ' f <p> (x) => (y) { y = t.g<q: float = @p>(x) } <domain: "t", opset_import: ["": 20]>'
        " g <q> (x) => (y) { y = LeakyRelu<alpha: float = @q>(x) }",
        normal((9,)),
        "",
        imports=', "t": 1',
    ),
    "an input that is an output is renamed": Fault(
        "g (float[3] a, float[3] b) => (float[3] a, float[3] y) { y = Add(a, b) }", normal((3,), (3,)), "an output too"
    ),
    "an input with a default vanishes": Fault(
        "g (float[3] a, float[3] b) => (float[3] y) <float[3] b = {1,2,3}> { y = Add(a, b) }",
        normal((3,), (3,)),
        "has a default",
    ),
}


def onnx_says(model: onnx.ModelProto, given: Arrays) -> list[Any]:
    """By ONNX Runtime, and by ONNX's own reference where that lacks the operator or takes it otherwise."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, given))
    except Exception:  # noqa: BLE001 the runtime's errors have no class of their own
        from onnx.reference import ReferenceEvaluator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(ReferenceEvaluator(model).run(None, given))


def parsed(model: onnx.ModelProto) -> Any:
    """The network, the parser that owns its weights, and the builder."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    took = parser.parse(model.SerializeToString())
    return (network if took else None), (builder, parser)


def fed(network: Any, given: Arrays) -> Arrays:
    """The inputs that the network has, float64 narrowed as it would take them."""
    return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in given.items()}


def differs(model: onnx.ModelProto, network: Any, given: Arrays) -> str:
    """In what the parsed network is not the model; "" where it is."""
    graph = ir.from_proto(model).graph
    declared = {
        kind: [[value.name, dtype_of(value), [str(dim) for dim in value.shape.dims]] for value in values]
        for kind, values in (("inputs", graph.inputs), ("outputs", graph.outputs))
    }
    if problems := audit(network, declared):
        return problems[0]
    try:
        got = evaluate(network, fed(network, given))
    except (EvaluationError, NotEvaluatedError) as error:
        return str(error)
    for output, expected in zip(model.graph.output, onnx_says(model, given), strict=True):
        found = measure(expected, got[output.name], expected.dtype.name)
        if not found.holds:
            return found.mismatch or f"{found.worst_db:.0f} dB"
    return ""


@pytest.fixture
def given(request: pytest.FixtureRequest, seed: int) -> Arrays:
    return FAULTS[request.node.callspec.params["name"]].draw(np.random.default_rng(seed))


@pytest.mark.parametrize("name", FAULTS)
def test_the_parser_changes_the_meaning(name: str, given: Arrays) -> None:
    model = FAULTS[name].model()
    network, held = parsed(model)
    assert network is not None, "the parser rejects it, so that the fault is not silent"
    assert differs(model, network, given) != ""
    del held


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_refused_for_its_reason_or_lowered_right(name: str, given: Arrays) -> None:
    fault = FAULTS[name]
    model = fault.model()
    graph = ir.from_proto(model)
    run_passes(graph, [InlineFunctions(), InferShapes()])
    lowered = lower(graph)
    reasons = [answer.reason for _, answer in operators.unsupported(lowered, "tensorrt-rtx")]
    reasons += operators.refusals(lowered)
    if reasons:
        assert fault.reason
        assert any(fault.reason in reason for reason in reasons), reasons
        return
    network, held = parsed(ir.to_proto(for_parser(lowered)))
    assert network is not None
    got = evaluate(network, given)
    for output, expected in zip(model.graph.output, onnx_says(model, given), strict=True):
        assert measure(expected, got[output.name], expected.dtype.name).holds
    del held


def test_there_are_more_than_a_dozen_besides_the_known_three() -> None:
    assert len(FAULTS) - 2 > 12


def test_is_causal_of_the_parser_is_upper_left(seed: int) -> None:
    """With a past it rejects the node; without one both mean the same only where there are as many keys as queries."""
    text = f"g {ATTENTION}) => (float[1,2,3,8] y) {{ y = Attention<is_causal = 1>(a, b, c) }}"
    fault = Fault(text, normal((1, 2, 3, 8), (1, 2, 5, 8), (1, 2, 5, 8)), "", opset=23)
    network, held = parsed(fault.model())
    kinds = {network.get_layer(index).type.name: network.get_layer(index) for index in range(network.num_layers)}
    layer = kinds["ATTENTION_INPUT"]
    layer.__class__ = trt.IAttentionInputLayer
    assert layer.attention.causal_kind.name == "UPPER_LEFT"
    del held


def test_a_network_of_the_right_meaning_does_not_differ(seed: int) -> None:
    """What would make every test above pass: a comparison that always finds something."""
    fault = Fault("g (float[3,4] a) => (float[3,4] y) { y = Trilu<upper = 1>(a) }", normal((3, 4)), "")
    network, held = parsed(fault.model())
    assert differs(fault.model(), network, fault.draw(np.random.default_rng(seed))) == ""
    del held
