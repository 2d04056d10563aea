"""Why TensorRT does not run a node as meant: one check for each silent fault of its parser and each form it rejects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.backends.tensorrt.operators.asked import Asked, Check, dtype_of, listed, never_negative, spelled

MOST_TOP_K = 3840
MOST_BOXES = 5000


def constant(*indices: int) -> Check:
    """Inputs that the parser reads, so that they must not be computed."""

    def check(asked: Asked) -> str | None:
        for index in indices:
            if asked.has(index) and asked.constant(index) is None:
                return f"its input {index} is computed; TensorRT takes a constant"
        return None

    return check


def equals(name: str, *allowed: Any) -> Check:
    """An attribute that may only have one of these values; the first is what it means when absent."""

    def check(asked: Asked) -> str | None:
        value = asked.attribute(name, allowed[0])
        value = value.decode() if isinstance(value, bytes) else value
        if value in allowed:
            return None
        return f"{name} = {value}; TensorRT has {listed([repr(each) for each in allowed])} alone"

    return check


def outputs(most: int) -> Check:
    def check(asked: Asked) -> str | None:
        if len(asked.node.outputs) <= most:
            return None
        return f"it has {len(asked.node.outputs)} outputs; TensorRT gives {most}"

    return check


def rank(low: int, high: int = 8, index: int = 0) -> Check:
    def check(asked: Asked) -> str | None:
        found = asked.rank(index)
        if found is None or low <= found <= high:
            return None
        return f"its input has {found} dims; TensorRT takes {low} to {high}: x.unsqueeze(0) adds one"

    return check


def never(reason: str) -> Check:
    return lambda asked: reason


def makes(*dtypes: str) -> Check:
    def check(asked: Asked) -> str | None:
        made = dtype_of(asked.node.outputs[0])
        return None if made is None or made in dtypes else f"a result of {made}; TensorRT makes {', '.join(dtypes)}"

    return check


def explicit(name: str) -> Check:
    def check(asked: Asked) -> str | None:
        if name in asked.node.attributes:
            return None
        return f"its {name} is not written down and TensorRT's parser takes another default: write {name} in the node"

    return check


def no_empty_input(index: int) -> Check:
    def check(asked: Asked) -> str | None:
        if len(asked.node.inputs) > index and asked.input(index) is None:
            return f"its input {index} has an empty name, which TensorRT's parser does not find: leave it out"
        return None

    return check


def without(name: str, reason: str) -> Check:
    """An attribute that is not to be there."""
    return lambda asked: f"{name}: {reason}" if asked.attribute(name) is not None else None


def leaves_out_c(asked: Asked) -> str | None:
    if asked.has(2) and asked.attribute("beta", 1.0) == 0:
        return "beta = 0 and an input C: TensorRT multiplies it all the same, NaN where C is infinite; leave C out"
    return None


def float_unless(name: str) -> Check:
    """Mod of floats needs fmod."""

    def check(asked: Asked) -> str | None:
        if asked.attribute(name, 0) == 0 and (asked.dtype() or "").startswith(("float", "bfloat")):
            return f"floats with {name} = 0; TensorRT takes {name} = 1 (the sign of the dividend)"
        return None

    return check


def reduces(asked: Asked) -> str | None:
    axes = asked.constant(1) if asked.has(1) else asked.attribute("axes")
    if asked.has(1) and axes is None:
        return "its axes are computed; TensorRT takes constants"
    computes = asked.node.op_type in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare")
    if computes and asked.attribute("noop_with_empty_axes", 0) and (axes is None or len(axes) == 0):
        return "noop_with_empty_axes without axes: TensorRT's parser gives the input back; write Abs, Log or Mul"
    return None


def clips(asked: Asked) -> str | None:
    low, high = asked.constant(1), asked.constant(2)
    if asked.version < 11:
        low, high = asked.attribute("min"), asked.attribute("max")
    if low is not None and high is not None and float(low) > float(high):
        return f"min {float(low)} is above max {float(high)}: ONNX gives max then, TensorRT min; write the constant"
    return None


def squeezes(asked: Asked) -> str | None:
    axes = asked.constant(1) if asked.has(1) else asked.attribute("axes")
    if asked.has(1) and axes is None:
        return "its axes are computed; TensorRT takes constants"
    dims = asked.dims()
    if axes is None and (dims is None or None in dims):
        return "no axes, of dynamic dims: TensorRT keeps a dynamic dim that turns out to be 1; name the axes"
    return None


def multiplies(asked: Asked) -> str | None:
    left, right = asked.rank(0), asked.rank(1)
    if left == 1 and right is not None and right > 2:
        return "a vector times a batch of matrices, which TensorRT's parser squeezes wrongly: unsqueeze the vector"
    return None


def gathers(asked: Asked) -> str | None:
    dims = asked.dims()
    if never_negative(asked.input(1)):
        return None
    axes: Sequence[int] = [asked.attribute("axis", 0)]
    if asked.node.op_type == "GatherND":
        batch, last = asked.attribute("batch_dims", 0), asked.dims(1)
        count = last[-1] if last else None
        axes = range(batch, batch + (count if count is not None else len(dims or ()) - batch))
    if dims is not None and all(dims[axis] is not None for axis in axes):
        return None
    return "indices that may be negative, of a dynamic axis: TensorRT leaves that undefined; count from the front"


def scatters(asked: Asked) -> str | None:
    if asked.text("reduction", "none") != "none":
        return (
            f"reduction = {asked.text('reduction', 'none')}; TensorRT's parser has none: write sums of scattered rows "
            "as a product, torch.nn.functional.one_hot(index, size).to(x.dtype).mT @ x"
        )
    if not never_negative(asked.input(1)):
        return "indices that may be negative, which TensorRT leaves undefined: add the axis's size to those below 0"
    if asked.node.op_type == "ScatterND" and _repeats(asked.constant(1)):
        return "two writes to one place, which TensorRT leaves undefined: give each index once"
    return None


def _repeats(indices: np.ndarray[Any, Any] | None) -> bool:
    if indices is None or indices.size == 0:
        return False
    rows = indices.reshape(-1, indices.shape[-1])
    return len(np.unique(rows, axis=0)) < len(rows)


def one_hot(asked: Asked) -> str | None:
    if asked.constant(1) is None:
        return "its depth is computed; TensorRT takes a constant"
    if not never_negative(asked.input(0)):
        return "indices that may be negative, which TensorRT leaves undefined: add depth to those below 0"
    return None


def top_k(asked: Asked) -> str | None:
    count = asked.constant(1)
    if count is not None and int(count.reshape(-1)[0]) > MOST_TOP_K:
        return f"K = {int(count.reshape(-1)[0])}; TensorRT takes at most {MOST_TOP_K}"
    return None


def keeps_batch_of_boxes(asked: Asked) -> str | None:
    scores = asked.dims(1)
    if scores is None or scores[1] != 1:
        return "more than one class: TensorRT orders the boxes of a batch by score, ONNX by class; one node a class"
    if scores[2] is None or scores[2] > MOST_BOXES:
        return f"more than {MOST_BOXES} boxes may come, of which TensorRT looks at the best {MOST_BOXES} alone"
    if not asked.has(4):
        return "no score_threshold: TensorRT takes 0 where ONNX takes none; give the lowest score"
    return None


def dtype_is_moved(asked: Asked) -> str | None:
    """uint8 goes in and out of the network, nothing between."""
    to = asked.attribute("to")
    made = dtype_of(asked.node.outputs[0]) if to is None else spelled(ir.DataType(to))
    if made == "float64":
        return "float64: TensorRT would compute it in float32 unsaid; cast to float32 in the model"
    if made in ("float8e4m3fn", "float4e2m1", "int4"):
        return f"a cast to {made}: TensorRT makes it by QuantizeLinear alone"
    if asked.dtype() in ("float8e4m3fn", "float4e2m1", "int4"):
        return f"a cast of {asked.dtype()}: TensorRT reads it by DequantizeLinear alone"
    if made == "uint8" and not asked.node.outputs[0].is_graph_output():
        return "uint8 inside the graph; TensorRT has it for inputs and outputs alone: cast to int32"
    return None


def quantizes(asked: Asked) -> str | None:
    making = asked.node.op_type == "QuantizeLinear"
    low = dtype_of(asked.node.outputs[0]) if making else asked.dtype()
    low = low or (dtype_of(asked.input(2)) if asked.has(2) else None)
    if making and not asked.has(2) and not asked.attribute("output_dtype", 0):
        low = "uint8"
    if low not in ("int8", "int4", "float8e4m3fn", "float4e2m1"):
        return f"quantized to {low}; TensorRT has int8, int4, float8e4m3fn and float4e2m1: give an int8 zero point of 0"
    zero, factor = asked.constant(2), asked.constant(1)
    if asked.has(2) and (zero is None or bool((zero.astype("float32") != 0).any())):
        return "a zero point that is computed or not 0; TensorRT quantizes symmetrically"
    if factor is None:
        return "its scale is computed; TensorRT takes a constant"
    if bool((factor.astype("float32") <= 0).any()):
        return "a scale that is not positive"
    if low in ("int4", "float4e2m1"):
        dims = asked.dims()
        if dims is None or None in dims or math.prod(size or 0 for size in dims) % 2:
            return f"{low} of an odd or unknown number of elements"
        if making or asked.constant(0) is None:
            return f"{low} of a computed tensor; TensorRT has weights in {low}"
    return None


def groups(asked: Asked) -> str | None:
    if asked.attribute("num_groups", 0) == 1:
        return "num_groups = 1: TensorRT's parser normalizes every channel alone; use LayerNormalization over [N, -1]"
    return None


def hard_maximum(asked: Asked) -> str | None:
    dims = asked.dims()
    if asked.version < 13 and (dims is None or None in dims):
        return "dynamic dims in the form of an operator set before 13: convert the model"
    return None


def equation(asked: Asked) -> str | None:
    if any(letter.isupper() for letter in asked.text("equation", "")):
        return "capital letters in the equation; TensorRT takes small ones"
    return None


def ranges(asked: Asked) -> str | None:
    computed = any(asked.constant(index) is None for index in range(3))
    if computed and asked.dtype() not in ("int32", "int64", None):
        return (
            f"{asked.dtype()} between computed bounds; TensorRT counts in integers: torch.arange(n).to(x.dtype) * step"
        )
    return None


def static(index: int = 0) -> Check:
    def check(asked: Asked) -> str | None:
        dims = asked.dims(index)
        if dims is not None and None not in dims:
            return None
        return f"dynamic dims in its input {index}; TensorRT's parser takes fixed ones"

    return check


def scatters_cache(asked: Asked) -> str | None:
    dims = asked.dims()
    if dims is None or len(dims) != 4:
        return "a cache that is not [batch, heads, tokens, size]; TensorRT updates that form alone"
    if asked.attribute("axis", -2) not in (-2, 2):
        return "tokens along another axis than the last but one"
    return "a cache of a dynamic number of tokens; give it a fixed one" if dims[2] is None else None


def not_training(asked: Asked) -> str | None:
    mode = asked.constant(2)
    if asked.has(2) and (mode is None or bool(mode.any())):
        return "training mode: compile the model in eval mode"
    return None


def same_activations(asked: Asked) -> str | None:
    names = [each.decode() if isinstance(each, bytes) else each for each in asked.attribute("activations", ())]
    known = ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign")
    for name in names:
        if name not in (*known, "Softplus"):
            return f"activation {name}; TensorRT has {listed([*known, 'Softplus'])}"
    half = len(names) // 2
    if asked.text("direction", "forward") == "bidirectional" and names[:half] != names[half:]:
        return "another activation backward than forward"
    return None
