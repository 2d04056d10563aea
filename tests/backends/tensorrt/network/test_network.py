"""Each kind of layer of a TensorRT network, evaluated on the CPU, against torch, numpy or ONNX Runtime."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from ingot.backends.tensorrt.network import math as network_math
from ingot.backends.tensorrt.network.evaluate import EvaluationError, NetworkEvaluator, NotEvaluatedError, evaluate
from ingot.runtime.metrics import measure

trt = pytest.importorskip("tensorrt_rtx", reason="a network is made by its bindings")

LOGGER = trt.Logger(trt.Logger.ERROR)
BUILDER = trt.Builder(LOGGER)
HELD: list[Any] = []
"""Weights that networks point to."""


class Net:
    """A network under construction: named inputs of given arrays, layers by their own methods, one or more outputs."""

    def __init__(self) -> None:
        self.network = BUILDER.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.given: dict[str, np.ndarray[Any, Any]] = {}

    def input(self, array: torch.Tensor, dims: tuple[int, ...] | None = None) -> Any:
        kinds = {torch.float32: trt.float32, torch.float16: trt.float16, torch.bfloat16: trt.bfloat16}
        kinds |= {torch.int32: trt.int32, torch.int64: trt.int64, torch.bool: trt.bool, torch.int8: trt.int8}
        name = f"x{len(self.given)}"
        bits = array.view(torch.int16).numpy().view(np.uint16) if array.dtype == torch.bfloat16 else array.numpy()
        self.given[name] = bits
        return self.network.add_input(name, kinds[array.dtype], dims or tuple(array.shape))

    def constant(self, array: Any) -> Any:
        values = np.asarray(array, order="C")
        HELD.append(values)
        return self.network.add_constant(values.shape, values).get_output(0)

    def run(self, *outputs: Any) -> list[np.ndarray[Any, Any]]:
        for index, tensor in enumerate(outputs):
            tensor.name = f"y{index}"
            self.network.mark_output(tensor)
        got = evaluate(self.network, self.given)
        return [got[f"y{index}"] for index in range(len(outputs))]


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def normal(seed: int) -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def same(expected: Any, got: np.ndarray[Any, Any], dtype: str | None = None) -> None:
    wanted = expected.numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    found = measure(wanted, got, dtype or wanted.dtype.name)
    assert found.holds, found


BINARY = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "DIV": torch.div,
    "FLOOR_DIV": lambda a, b: torch.floor(a / b),
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


@pytest.mark.parametrize("name", BINARY)
def test_elementwise(net: Net, normal: Any, name: str) -> None:
    a, b = normal(3, 4), normal(1, 4)
    layer = net.network.add_elementwise(net.input(a), net.input(b), getattr(trt.ElementWiseOperation, name))
    same(BINARY[name](a, b), *net.run(layer.get_output(0)))


@pytest.mark.parametrize(("name", "expected"), [("DIV", [3, -3, -3, 3]), ("FLOOR_DIV", [3, -4, -4, 3])])
def test_integers_divide_as_c_and_as_python(net: Net, name: str, expected: list[int]) -> None:
    a, b = torch.tensor([7, -7, 7, -7], dtype=torch.int32), torch.tensor([2, 2, -2, -2], dtype=torch.int32)
    layer = net.network.add_elementwise(net.input(a), net.input(b), getattr(trt.ElementWiseOperation, name))
    same(np.array(expected, np.int32), *net.run(layer.get_output(0)))


UNARY = ["EXP", "ABS", "NEG", "SIN", "COS", "TAN", "SINH", "COSH", "ATAN", "ASINH", "CEIL", "FLOOR", "ERF", "SIGN"]


@pytest.mark.parametrize("name", [*UNARY, "ROUND", "ISINF", "ISNAN", "LOG", "SQRT", "RECIP"])
def test_unary(net: Net, normal: Any, name: str) -> None:
    x = normal(50)
    if name in ("LOG", "SQRT", "RECIP"):
        x = x.abs() + 0.1
    if name.startswith("IS"):
        x[3], x[7] = torch.inf, torch.nan
    layer = net.network.add_unary(net.input(x), getattr(trt.UnaryOperation, name))
    function = {"RECIP": torch.reciprocal}.get(name) or getattr(torch, name.lower())
    same(function(x), *net.run(layer.get_output(0)))


def test_halves_round_to_even(net: Net) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    same(
        np.array([0, 2, 2, -0.0, -2], np.float32),
        *net.run(net.network.add_unary(net.input(x), trt.UnaryOperation.ROUND).get_output(0)),
    )


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "RELU": torch.relu,
    "SIGMOID": torch.sigmoid,
    "TANH": torch.tanh,
    "LEAKY_RELU": lambda x: F.leaky_relu(x, 0.3),
    "ELU": lambda x: F.elu(x, 0.3),
    "SOFTSIGN": F.softsign,
    "SOFTPLUS": lambda x: 0.3 * torch.log(1 + torch.exp(0.7 * x)),
    "CLIP": lambda x: x.clamp(0.3, 0.7),
    "HARD_SIGMOID": lambda x: (0.3 * x + 0.7).clamp(0, 1),
    "SCALED_TANH": lambda x: 0.3 * torch.tanh(0.7 * x),
    "THRESHOLDED_RELU": lambda x: F.threshold(x, 0.3, 0.0),
    "SELU": lambda x: 0.7 * torch.where(x > 0, x, 0.3 * (x.exp() - 1)),
    "GELU_ERF": F.gelu,
    "GELU_TANH": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(net: Net, normal: Any, name: str) -> None:
    x = normal(60)
    layer = net.network.add_activation(net.input(x), getattr(trt.ActivationType, name))
    layer.alpha, layer.beta = 0.3, 0.7
    same(ACTIVATIONS[name](x), *net.run(layer.get_output(0)))


NONE, TRANSPOSE, VECTOR = (getattr(trt.MatrixOperation, name) for name in ("NONE", "TRANSPOSE", "VECTOR"))


@pytest.mark.parametrize(
    ("left", "right", "shapes", "equation"),
    [
        (NONE, NONE, ((2, 3, 4), (1, 4, 5)), "bij,cjk->bik"),
        (TRANSPOSE, NONE, ((2, 4, 3), (2, 4, 5)), "bji,bjk->bik"),
        (NONE, TRANSPOSE, ((2, 3, 4), (2, 5, 4)), "bij,bkj->bik"),
        (VECTOR, NONE, ((4,), (4, 5)), "j,jk->k"),
        (NONE, VECTOR, ((3, 4), (4,)), "ij,j->i"),
        (VECTOR, VECTOR, ((4,), (4,)), "j,j->"),
    ],
)
def test_matrix_multiply(net: Net, normal: Any, left: Any, right: Any, shapes: Any, equation: str) -> None:
    a, b = normal(*shapes[0]), normal(*shapes[1])
    layer = net.network.add_matrix_multiply(net.input(a), left, net.input(b), right)
    same(torch.einsum(equation, a, b), *net.run(layer.get_output(0)))


def test_sums_of_float16_are_kept_wide(net: Net) -> None:
    a = torch.full((1, 5000), 1.0, dtype=torch.float16)
    total = net.network.add_reduce(net.input(a), trt.ReduceOperation.SUM, 2, False)
    same(np.array([5000], np.float16), *net.run(total.get_output(0)))


@pytest.mark.parametrize("name", ["SUM", "PROD", "MAX", "MIN", "AVG"])
@pytest.mark.parametrize("keep", [True, False])
def test_reduce(net: Net, normal: Any, name: str, keep: bool) -> None:
    x = normal(2, 3, 4)
    layer = net.network.add_reduce(net.input(x), getattr(trt.ReduceOperation, name), 0b101, keep)
    array = x.numpy()
    function = {"SUM": np.sum, "PROD": np.prod, "MAX": np.max, "MIN": np.min, "AVG": np.mean}[name]
    same(function(array, axis=(0, 2), keepdims=keep), *net.run(layer.get_output(0)))


def test_softmax_and_top_k(net: Net, normal: Any) -> None:
    x = normal(3, 5)
    soft = net.network.add_softmax(net.input(x))
    soft.axes = 2
    top = net.network.add_topk(soft.get_output(0), trt.TopKOperation.MIN, 2, 2)
    values, indices = net.run(top.get_output(0), top.get_output(1))
    expected = torch.softmax(x, 1).topk(2, 1, largest=False)
    same(expected.values, values)
    same(expected.indices.int(), indices)


def test_shuffle_transposes_reshapes_transposes(net: Net, normal: Any) -> None:
    x = normal(2, 3, 4)
    layer = net.network.add_shuffle(net.input(x))
    layer.first_transpose, layer.reshape_dims, layer.second_transpose = (2, 0, 1), (0, -1), (1, 0)
    same(x.permute(2, 0, 1).reshape(4, 6).T, *net.run(layer.get_output(0)))


def test_shuffle_by_a_computed_shape(net: Net, normal: Any) -> None:
    x = normal(2, 6)
    layer = net.network.add_shuffle(net.input(x))
    layer.set_input(1, net.input(torch.tensor([3, 4])))
    same(x.reshape(3, 4), *net.run(layer.get_output(0)))


@pytest.mark.parametrize(
    ("mode", "pad"), [("WRAP", "wrap"), ("CLAMP", "edge"), ("REFLECT", "reflect"), ("FILL", "constant")]
)
def test_slice_beyond_the_bounds(net: Net, normal: Any, mode: str, pad: str) -> None:
    x = normal(4, 5)
    layer = net.network.add_slice(net.input(x), (-2, -1), (7, 8), (1, 1))
    layer.mode = getattr(trt.SampleMode, mode)
    same(np.pad(x.numpy(), ((2, 1), (1, 2)), mode=pad), *net.run(layer.get_output(0)))


def test_slice_backwards_with_axes(net: Net, normal: Any) -> None:
    x = normal(4, 6)
    layer = net.network.add_slice(net.input(x), (5,), (3,), (-2,))
    layer.axes = (1,)
    same(x.numpy()[:, 5::-2], *net.run(layer.get_output(0)))


def test_slice_out_of_strict_bounds_is_told(net: Net, normal: Any) -> None:
    layer = net.network.add_slice(net.input(normal(4), (-1,)), (2,), (3,), (1,))
    with pytest.raises(EvaluationError, match=r"Slice.*reads \[4\] of an axis of 4"):
        net.run(layer.get_output(0))


def test_gather_modes(net: Net, normal: Any) -> None:
    x = normal(3, 4)
    at = torch.tensor([2, -1, 0])
    plain = net.network.add_gather(net.input(x), net.input(at), 0)
    each = net.network.add_gather_v2(net.input(x), net.input(torch.tensor([[0, 2, 1, 1]])), trt.GatherMode.ELEMENT)
    each.axis = 0
    tuples = net.network.add_gather_v2(net.input(x), net.input(torch.tensor([[0, 3], [2, 1]])), trt.GatherMode.ND)
    got = net.run(plain.get_output(0), each.get_output(0), tuples.get_output(0))
    for expected, array in zip((x[at], x[[0, 2, 1, 1], range(4)][None], x[[0, 2], [3, 1]]), got, strict=True):
        same(expected, array)


def test_gather_beyond_the_end_gives_zero(net: Net, normal: Any) -> None:
    x = normal(3, 4)
    layer = net.network.add_gather(net.input(x), net.input(torch.tensor([1, 7])), 0)
    same(torch.stack([x[1], torch.zeros(4)]), *net.run(layer.get_output(0)))


def test_gather_at_negative_positions_of_a_dynamic_axis_is_undefined(net: Net, normal: Any) -> None:
    layer = net.network.add_gather(net.input(normal(3, 4), (-1, 4)), net.input(torch.tensor([-1])), 0)
    with pytest.raises(EvaluationError, match="undefined"):
        net.run(layer.get_output(0))


def test_scatter_modes(net: Net, normal: Any) -> None:
    x, rows = normal(3, 4), normal(2, 4)
    whole = net.network.add_scatter(
        net.input(x), net.input(torch.tensor([[2], [0]])), net.input(rows), trt.ScatterMode.ND
    )
    each = net.network.add_scatter(
        net.input(x), net.input(torch.tensor([[0, 2, 1, 0]])), net.input(rows[:1]), trt.ScatterMode.ELEMENT
    )
    got = net.run(whole.get_output(0), each.get_output(0))
    expected = x.clone()
    expected[[2, 0]] = rows
    same(expected, got[0])
    same(x.scatter(0, torch.tensor([[0, 2, 1, 0]]), rows[:1]), got[1])


def test_scatter_twice_to_one_element_is_undefined(net: Net, normal: Any) -> None:
    layer = net.network.add_scatter(
        net.input(normal(3, 4)), net.input(torch.tensor([[1], [1]])), net.input(normal(2, 4)), trt.ScatterMode.ND
    )
    with pytest.raises(EvaluationError, match="twice"):
        net.run(layer.get_output(0))


def test_select_concatenate_cast_and_identity(net: Net, normal: Any) -> None:
    a, b = normal(3, 4), normal(3, 4)
    chosen = net.network.add_select(net.input(a > 0), net.input(a), net.input(b)).get_output(0)
    joined = net.network.add_concatenation([chosen, net.network.add_identity(net.input(b)).get_output(0)])
    joined.axis = 1
    cast = net.network.add_cast(joined.get_output(0), trt.int32)
    same(torch.cat([torch.where(a > 0, a, b), b], 1).int(), *net.run(cast.get_output(0)))


def test_a_cast_beyond_the_range_saturates(net: Net) -> None:
    x = torch.tensor([3e9, -3e9, float("nan"), 1.9])
    same(
        np.array([2**31 - 1, -(2**31), 0, 1], np.int32),
        *net.run(net.network.add_cast(net.input(x), trt.int32).get_output(0)),
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_convolution(net: Net, normal: Any, count: int) -> None:
    count = max(count, 2)
    x, kernel, bias = normal(2, 4, *[9] * count), normal(6, 2, *[3] * count), normal(6)
    weights = [np.ascontiguousarray(each.numpy()) for each in (kernel, bias)]
    HELD.append(weights)
    layer = net.network.add_convolution_nd(net.input(x), 6, (3,) * count, *weights)
    layer.num_groups, layer.stride_nd, layer.dilation_nd = 2, (2,) * count, (2,) * count
    layer.pre_padding, layer.post_padding = (1,) * count, (2,) * count
    padded = F.pad(x, [1, 2] * count)
    function = {2: F.conv2d, 3: F.conv3d}[count]
    same(function(padded, kernel, bias, stride=2, dilation=2, groups=2), *net.run(layer.get_output(0)))


def test_convolution_with_same_padding_keeps_the_size(net: Net, normal: Any) -> None:
    x, kernel = normal(1, 2, 7, 7), normal(3, 2, 2, 2)
    weights = np.ascontiguousarray(kernel.numpy())
    HELD.append(weights)
    layer = net.network.add_convolution_nd(net.input(x), 3, (2, 2), weights)
    layer.padding_mode = trt.PaddingMode.SAME_LOWER
    same(F.conv2d(F.pad(x, [1, 0, 1, 0]), kernel), *net.run(layer.get_output(0)))


def test_deconvolution(net: Net, normal: Any) -> None:
    x, kernel, bias = normal(1, 4, 5, 5), normal(4, 3, 3, 3), normal(6)
    weights = [np.ascontiguousarray(each.numpy()) for each in (kernel, bias)]
    HELD.append(weights)
    layer = net.network.add_deconvolution_nd(net.input(x), 6, (3, 3), *weights)
    layer.num_groups, layer.stride_nd, layer.pre_padding, layer.post_padding = 2, (2, 2), (1, 1), (1, 1)
    same(F.conv_transpose2d(x, kernel, bias, stride=2, padding=1, groups=2), *net.run(layer.get_output(0)))


@pytest.mark.parametrize("excludes", [True, False])
def test_average_pooling(net: Net, normal: Any, excludes: bool) -> None:
    x = normal(2, 3, 7, 7)
    layer = net.network.add_pooling_nd(net.input(x), trt.PoolingType.AVERAGE, (3, 3))
    layer.stride_nd, layer.padding_nd, layer.average_count_excludes_padding = (2, 2), (1, 1), excludes
    expected = F.avg_pool2d(x, 3, 2, 1, count_include_pad=not excludes)
    same(expected, *net.run(layer.get_output(0)))


def test_max_pooling_rounds_up(net: Net, normal: Any) -> None:
    x = normal(2, 3, 6, 6) - 5
    layer = net.network.add_pooling_nd(net.input(x), trt.PoolingType.MAX, (3, 3))
    layer.stride_nd, layer.padding_mode = (2, 2), trt.PaddingMode.EXPLICIT_ROUND_UP
    same(F.max_pool2d(x, 3, 2, ceil_mode=True), *net.run(layer.get_output(0)))


def test_padding_adds_and_cuts(net: Net, normal: Any) -> None:
    x = normal(1, 2, 4, 4)
    layer = net.network.add_padding_nd(net.input(x), (1, -1), (0, 2))
    same(F.pad(x, [-1, 2, 1, 0]), *net.run(layer.get_output(0)))


@pytest.mark.parametrize(("mode", "torch_mode"), [("LINEAR", "bilinear"), ("CUBIC", "bicubic")])
@pytest.mark.parametrize("corners", [True, False])
def test_resize(net: Net, normal: Any, mode: str, torch_mode: str, corners: bool) -> None:
    x = normal(1, 2, 5, 6)
    layer = net.network.add_resize(net.input(x))
    layer.shape, layer.resize_mode = (1, 2, 9, 4), getattr(trt.InterpolationMode, mode)
    kind = "ALIGN_CORNERS" if corners else "HALF_PIXEL"
    layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, kind)
    layer.cubic_coeff = -0.75
    same(F.interpolate(x, (9, 4), mode=torch_mode, align_corners=corners), *net.run(layer.get_output(0)))


def test_resize_to_the_nearest(net: Net, normal: Any) -> None:
    x = normal(1, 2, 5, 6)
    layer = net.network.add_resize(net.input(x))
    layer.shape, layer.nearest_rounding = (1, 2, 9, 4), trt.ResizeRoundMode.FLOOR
    same(F.interpolate(x, (9, 4), mode="nearest"), *net.run(layer.get_output(0)))


def test_grid_sample(net: Net, normal: Any) -> None:
    x, grid = normal(1, 2, 4, 5), normal(1, 3, 3, 2)
    layer = net.network.add_grid_sample(net.input(x), net.input(grid))
    layer.sample_mode, layer.align_corners = trt.SampleMode.REFLECT, True
    expected = F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)
    same(expected, *net.run(layer.get_output(0)))


def test_normalization_of_groups(net: Net, normal: Any) -> None:
    x, scale, bias = normal(2, 6, 3, 3) * 3 + 1, normal(1, 6, 1, 1), normal(1, 6, 1, 1)
    layer = net.network.add_normalization_v2(net.input(x), net.input(scale), net.input(bias), 0b1100)
    layer.num_groups, layer.epsilon = 3, 0.01
    same(F.group_norm(x, 3, scale.reshape(6), bias.reshape(6), 0.01), *net.run(layer.get_output(0)))


def test_normalization_of_rows(net: Net, normal: Any) -> None:
    x, scale, bias = normal(2, 3, 8), normal(1, 1, 8), normal(1, 1, 8)
    layer = net.network.add_normalization_v2(net.input(x), net.input(scale), net.input(bias), 0b100)
    same(F.layer_norm(x, (8,), scale.reshape(8), bias.reshape(8)), *net.run(layer.get_output(0)))


def test_scale_of_channels(net: Net, normal: Any) -> None:
    x, shift, factor = normal(2, 3, 4, 4), normal(3), normal(3)
    arrays = [np.ascontiguousarray(each.numpy()) for each in (shift, factor)]
    HELD.append(arrays)
    layer = net.network.add_scale(net.input(x), trt.ScaleMode.CHANNEL, *arrays, np.ones(3, np.float32))
    expected = x * factor.reshape(3, 1, 1) + shift.reshape(3, 1, 1)
    same(expected, *net.run(layer.get_output(0)))


def test_lrn(net: Net, normal: Any) -> None:
    x = normal(1, 6, 3, 3)
    layer = net.network.add_lrn(net.input(x), 3, 0.5, 0.75, 2.0)
    same(F.local_response_norm(x, 3, 0.5, 0.75, 2.0), *net.run(layer.get_output(0)))


def test_cumulative_backward_and_exclusive(net: Net, normal: Any) -> None:
    x = normal(2, 5)
    axis = net.constant(np.array(1, np.int32))
    layer = net.network.add_cumulative(net.input(x), axis, trt.CumulativeOperation.SUM, True, True)
    expected = x.flip(1).cumsum(1).flip(1) - x
    got = net.run(layer.get_output(0))[0]
    assert np.abs(expected.numpy() - got).max() < 1e-5


def test_fill_one_hot_non_zero_reverse_and_prelu(net: Net, normal: Any) -> None:
    steps = net.network.add_fill((2, 3), trt.FillOperation.LINSPACE, trt.float32)
    steps.set_input(1, net.constant(np.array(2.0, np.float32)))
    steps.set_input(2, net.constant(np.array([10.0, 0.5], np.float32)))
    at = torch.tensor([0, 2, 1], dtype=torch.int32)
    pair, depth = net.constant(np.array([3.0, 5.0], np.float32)), net.constant(np.array(4, np.int32))
    hot = net.network.add_one_hot(net.input(at), pair, depth, -1)
    x, slope = normal(3, 4), normal(1, 4)
    there = net.network.add_non_zero(net.input(x > 0))
    turned = net.network.add_reverse_sequence(net.input(x), net.input(torch.tensor([2, 1, 4], dtype=torch.int32)))
    turned.batch_axis, turned.sequence_axis = 0, 1
    bent = net.network.add_parametric_relu(net.input(x), net.input(slope))
    got = net.run(*(layer.get_output(0) for layer in (steps, hot, there, turned, bent)))
    same(np.array([[2, 2.5, 3], [12, 12.5, 13]], np.float32), got[0])
    same((F.one_hot(at.long(), 4) * 2 + 3).float(), got[1])
    same(torch.nonzero(x > 0).T.int(), got[2])
    reversed_rows = [torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, (2, 1, 4), strict=True)]
    same(torch.stack(reversed_rows), got[3])
    same(torch.where(x >= 0, x, x * slope), got[4])


def test_quantize_and_dequantize_by_channel(net: Net, normal: Any) -> None:
    x, scale = normal(3, 4), np.array([0.1, 0.02, 0.3], np.float32)
    low = net.network.add_quantize(net.input(x), net.constant(scale), trt.int8)
    low.axis = 0
    back = net.network.add_dequantize(low.get_output(0), net.constant(scale), trt.float32)
    back.axis = 0
    quantized = torch.round(x / torch.tensor(scale).reshape(3, 1)).clamp(-128, 127)
    got = net.run(low.get_output(0), back.get_output(0))
    same(quantized.to(torch.int8), got[0])
    same(quantized * torch.tensor(scale).reshape(3, 1), got[1])


def test_int4_weights_by_block(net: Net, seed: int) -> None:
    nibbles = np.random.default_rng(seed).integers(-8, 8, (4, 2), dtype=np.int8)
    packed = ((nibbles.reshape(-1)[0::2] & 15) | (nibbles.reshape(-1)[1::2] << 4)).astype(np.uint8)
    scale = np.array([[0.5, 1.0], [2.0, 4.0]], np.float32)
    HELD.append(packed)
    weights = net.network.add_constant((4, 2), trt.Weights(trt.int4, packed.ctypes.data, 8))
    layer = net.network.add_dequantize(weights.get_output(0), net.constant(scale), trt.float32)
    same(nibbles * np.repeat(scale, 2, 0), *net.run(layer.get_output(0)))


def test_bfloat16_weights_are_read_through_the_bindings(net: Net, normal: Any) -> None:
    x, other = normal(3, 4).bfloat16(), normal(3, 4).bfloat16()
    HELD.append(other)
    weights = net.network.add_constant((3, 4), trt.Weights(trt.bfloat16, other.data_ptr(), 12)).get_output(0)
    layer = net.network.add_elementwise(net.input(x), weights, trt.ElementWiseOperation.SUM)
    (got,) = net.run(layer.get_output(0))
    same((x + other).view(torch.int16).numpy().view(np.uint16), got, "bfloat16")


def attended(net: Net, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: Any) -> Any:
    tensors = [net.input(each) for each in (q, k, v)]
    return net.network.add_attention_v2(*tensors, trt.AttentionNormalizationOp.SOFTMAX, kind)


@pytest.mark.parametrize(("kind", "diagonal"), [("NONE", None), ("UPPER_LEFT", 0), ("LOWER_RIGHT", 2)])
def test_attention_is_not_scaled_and_causal_as_told(net: Net, normal: Any, kind: str, diagonal: int | None) -> None:
    q, k, v = normal(1, 4, 3, 8), normal(1, 2, 5, 8), normal(1, 2, 5, 8)
    whole = attended(net, q, k, v, getattr(trt.CausalMaskKind, kind))
    mask = None if diagonal is None else torch.ones(3, 5, dtype=torch.bool).tril(diagonal)
    expected = F.scaled_dot_product_attention(q, k, v, mask, scale=1.0, enable_gqa=True)
    same(expected, *net.run(whole.get_output(0)))


def test_attention_with_a_mask_and_lengths(net: Net, normal: Any) -> None:
    q, k, v = normal(2, 2, 3, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 8)
    added = normal(2, 1, 3, 5)
    whole = attended(net, q, k, v, trt.CausalMaskKind.NONE)
    whole.mask = net.input(added)
    whole.key_value_lengths = net.input(torch.tensor([2, 5], dtype=torch.int32))
    hidden = torch.arange(5) >= torch.tensor([2, 5]).reshape(2, 1, 1, 1)
    expected = F.scaled_dot_product_attention(q, k, v, added.masked_fill(hidden, -torch.inf), scale=1.0)
    same(expected, *net.run(whole.get_output(0)))


def test_attention_with_a_boolean_mask(net: Net, normal: Any) -> None:
    q, k, v = normal(1, 2, 3, 8), normal(1, 2, 5, 8), normal(1, 2, 5, 8)
    seen = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    whole = attended(net, q, k, v, trt.CausalMaskKind.NONE)
    whole.mask = net.input(seen.reshape(1, 1, 3, 5))
    same(F.scaled_dot_product_attention(q, k, v, seen, scale=1.0), *net.run(whole.get_output(0)))


def test_the_kv_cache_is_written_where_it_is_told(net: Net, normal: Any) -> None:
    cache, update = normal(2, 2, 6, 4), normal(2, 2, 2, 4)
    at = torch.tensor([1, 4], dtype=torch.int32)
    layer = net.network.add_kv_cache_update(net.input(cache), net.input(update), net.input(at), trt.KVCacheMode.LINEAR)
    expected = cache.clone()
    expected[0, :, 1:3], expected[1, :, 4:6] = update[0], update[1]
    same(expected, *net.run(layer.get_output(0)))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_embedding_of_a_part(net: Net, normal: Any, interleaved: bool) -> None:
    x, angles = normal(1, 2, 3, 8), normal(1, 3, 2)
    layer = net.network.add_rotary_embedding(
        net.input(x), net.input(angles.cos()), net.input(angles.sin()), interleaved, 4
    )
    part = x[..., :4].reshape(1, 2, 3, 2, 2) if interleaved else x[..., :4].reshape(1, 2, 3, 2, 2).mT
    turned = torch.view_as_real(
        torch.view_as_complex(part.contiguous()) * torch.polar(torch.ones(1, 1, 3, 2), angles[:, None])
    )
    turned = (turned if interleaved else turned.mT).reshape(1, 2, 3, 4)
    same(torch.cat([turned, x[..., 4:]], -1), *net.run(layer.get_output(0)))


@dataclass(frozen=True)
class Written:
    """A graph in ONNX's text, whose parsed network is held to ONNX Runtime."""

    graph: str
    draw: Callable[[np.random.Generator], dict[str, Any]]


def floats(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], dict[str, Any]]:
    return lambda random: {chr(97 + i): random.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}


WRITTEN = {
    "nested loops": Written(
        "g (float[3] a) => (float[3] y) { t = Constant<value_int=3>() c = Constant<value = bool {1}>()"
        " y = Loop(t, c, a) <body = o (int64 i, bool d, float[3] v) => (bool e, float[3] w) { e = Identity(d)"
        " f = Cast<to = 1>(i) u = Add(v, f) n = Constant<value_int=2>() w = Loop(n, d, u) <body = p"
        " (int64 j, bool q, float[3] r) => (bool s, float[3] x) { s = Identity(q) h = Mul(r, f) x = Add(h, a) }> }> }",
        floats((3,)),
    ),
    "a loop that ends early": Written(
        "g (float[3] a, int64 b) => (float[3] y) { t = Constant<value_int=9>() c = Constant<value = bool {1}>()"
        " y = Loop(t, c, a) <body = o (int64 i, bool d, float[3] v) => (bool e, float[3] w)"
        " { w = Add(v, v) e = Less(i, b) }> }",
        lambda random: {**floats((3,))(random), "b": np.array(random.integers(0, 5), np.int64)},
    ),
    "a scan backward": Written(
        "g (float[2] a, float[2,4] b) => (float[2] y, float[2,4] z)"
        " { y, z = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],"
        " scan_output_axes = [1],"
        " body = o (float[2] s, float[2] x) => (float[2] t, float[2] u) { t = Add(s, x) u = Mul(t, x) }>(a, b) }",
        floats((2,), (2, 4)),
    ),
    "a branch": Written(
        "g (float[3] a, bool b) => (float[3] y) { y = If(b) <then_branch = t () => (float[3] p) { p = Neg(a) },"
        " else_branch = e () => (float[3] q) { q = Exp(a) }> }",
        lambda random: {**floats((3,))(random), "b": np.array(random.random() < 0.5)},
    ),
    "a recurrence": Written(
        "g (float[4,2,3] a, float[1,20,3] b, float[1,20,5] c) => (float[4,1,2,5] y)"
        " { y = LSTM<hidden_size = 5>(a, b, c) }",
        floats((4, 2, 3), (1, 20, 3), (1, 20, 5)),
    ),
    "boxes": Written(
        "g (float[1,6,4] a, float[1,1,6] b) => (int64[n,3] y) { m = Constant<value_ints=[3]>()"
        " o = Constant<value_float=0.3>() l = Constant<value_float=0.1>() y = NonMaxSuppression(a, b, m, o, l) }",
        lambda random: {"a": np.sort(random.random((1, 6, 4)), -1)[..., [0, 1, 2, 3]].astype(np.float32),
                        "b": random.random((1, 1, 6)).astype(np.float32)},
    ),
    "an einsum": Written(
        'g (float[2,3,4] a, float[2,4,5] b) => (float[2,5] y) { y = Einsum<equation = "bij,bjk->bk">(a, b) }',
        floats((2, 3, 4), (2, 4, 5)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_a_parsed_graph_is_what_onnx_runtime_computes(name: str, seed: int) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {WRITTEN[name].graph}')
    network = BUILDER.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOGGER)
    assert parser.parse(model.SerializeToString())
    given = WRITTEN[name].draw(np.random.default_rng(seed))
    expected = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
    evaluator = NetworkEvaluator(network)
    got = evaluator.run(given)
    for output, array in zip(model.graph.output, expected, strict=True):
        same(array, got[output.name])
    again = evaluator.run(given)
    assert all(np.array_equal(again[key], got[key]) for key in got)


def test_a_value_is_let_go_of_after_its_last_reader(net: Net) -> None:
    """In a chain of 60 sums, as many tensors live at the end as at the start."""
    x = net.input(torch.ones(4099))
    y = x
    for _ in range(60):
        y = net.network.add_elementwise(y, x, trt.ElementWiseOperation.SUM).get_output(0)
    live: list[int] = []
    real = torch.add

    def count(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        live.append(sum(type(each) is torch.Tensor and each.shape == a.shape for each in gc.get_objects()))
        return real(a, b)

    y.name = "y"
    net.network.mark_output(y)
    evaluator = NetworkEvaluator(net.network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(network_math._BINARY, "SUM", count)
        (got,) = evaluator.run(net.given).values()
    assert got[0] == 61
    assert max(live) <= min(live) + 2


def test_a_layer_that_cannot_be_evaluated_is_named(net: Net) -> None:
    layer = net.network.add_fill((2, 3), trt.FillOperation.RANDOM_UNIFORM, trt.float32)
    layer.name = "noise"
    with pytest.raises(NotEvaluatedError, match=r"noise \(FILL\): a fill by RANDOM_UNIFORM is random"):
        net.run(layer.get_output(0))


def test_an_input_that_is_missing_or_of_another_dtype_is_told(net: Net, normal: Any) -> None:
    layer = net.network.add_unary(net.input(normal(3)), trt.UnaryOperation.NEG)
    layer.get_output(0).name = "y"
    net.network.mark_output(layer.get_output(0))
    with pytest.raises(EvaluationError, match="x0 were not given"):
        evaluate(net.network, {})
    with pytest.raises(EvaluationError, match="dtype int32"):
        evaluate(net.network, {"x0": np.zeros(3, np.int32)})


def test_an_assertion_of_the_network_that_fails_is_told(net: Net, normal: Any) -> None:
    net.network.add_assertion(net.input(torch.tensor([True, False])), "sizes agree")
    layer = net.network.add_unary(net.input(normal(3)), trt.UnaryOperation.NEG)
    with pytest.raises(EvaluationError, match="sizes agree"):
        net.run(layer.get_output(0))
