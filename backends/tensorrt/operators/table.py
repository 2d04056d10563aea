"""Every ONNX operator that the TensorRT targets run: dtypes, the attributes that the parser reads, and its refusals.

The dtypes and the refusals were found by parsing, building and evaluating small models with TensorRT-RTX 1.7.1. What is
not written here is refused: an operator, a dtype, and an attribute that the parser would pass over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ingot.backends.contract import Covered, No, Yes
from ingot.backends.tensorrt.operators import refusals as why
from ingot.backends.tensorrt.operators import refusals_control as control
from ingot.backends.tensorrt.operators import refusals_spatial as spatial
from ingot.backends.tensorrt.operators.asked import Asked, Check, dtype_of
from ingot.backends.tensorrt.operators.instead import INSTEAD
from ingot.ir.checks import subgraphs
from ingot.plugins.declared import DECLARED

LAYER, LAYERS, PLUGIN, FOLDED = "TensorRT layer", "several TensorRT layers", "Ingot's plugin", "constant"
LOWERED = "TensorRT layer, by another operator"

SOURCE = (
    "small models that TensorRT-RTX 1.7.1 parsed and built, evaluated on the CPU by TensorRT's documentation; what "
    "that leaves undefined is refused, with the reason on the node's line; none was run on a GPU"
)
"""What the table was made from."""

OLDEST, NEWEST = 9, 28
"""The operator sets that the table was made for."""

LARGEST_RANK = 8

_F32 = ("float32",)
_FLOAT = ("float32", "float16")
_FLOATS = ("float32", "float16", "bfloat16")
_NUMBERS = (*_FLOATS, "int32", "int64")
_MOVED = (*_NUMBERS, "bool")
_HELD = (*_MOVED, "int8")
_ALL = (*_HELD, "uint8")
_QUANTIZED = ("int8", "int4", "float8e4m3fn", "float4e2m1")
_KNOWN = {*_ALL, *_QUANTIZED}

_NAMES = {"float64": "float64: TensorRT would compute it in float32 unsaid; cast to float32 in the model"}


@dataclass(frozen=True, slots=True)
class Row:
    """dtypes are those of input `typed` (of the first output where that is None)."""

    dtypes: tuple[str, ...]
    attributes: str = ""
    checks: tuple[Check, ...] = ()
    typed: int | None = 0
    how: str = LAYER
    low: int = OLDEST
    only: str | None = None
    """The one target that runs it."""


_WINDOW = "auto_pad dilations kernel_shape pads strides"
_RNN = "activation_alpha activation_beta activations clip direction hidden_size"
_RNN_CHECKS = (
    why.same_activations,
    why.equals("layout", 0),
    why.without("clip", "what TensorRT cuts was seen to differ from ONNX Runtime's; use clamp in the model's code"),
)
_REDUCE = "axes keepdims noop_with_empty_axes"
_PICK = "axis keepdims select_last_index"
_PICKS_ANY = why.never(
    "its choice among equal values, which TensorRT leaves open; known dims and operator set 13 or later cure it"
)

_TABLE: Mapping[str, Row] = {
    "Abs": Row(_NUMBERS),
    "Acos": Row(_FLOATS),
    "Acosh": Row(_FLOATS),
    "Add": Row(_NUMBERS),
    "And": Row(("bool",)),
    "ArgMax": Row(_NUMBERS, _PICK, (_PICKS_ANY,), how=LOWERED),
    "ArgMin": Row(_NUMBERS, _PICK, (_PICKS_ANY,), how=LOWERED),
    "Asin": Row(_FLOATS),
    "Asinh": Row(_FLOATS),
    "Atan": Row(_FLOATS),
    "Atanh": Row(_FLOATS),
    "Attention": Row(
        (),
        "",
        (why.never("a window, or heads that stay joined, which has no equal in TensorRT"),),
        how=LOWERED,
    ),
    "AveragePool": Row(
        _FLOATS, f"ceil_mode count_include_pad {_WINDOW}", (spatial.all_ones("dilations"), spatial.pools)
    ),
    "BatchNormalization": Row(
        _FLOATS, "epsilon momentum spatial training_mode", (why.equals("training_mode", 0), why.outputs(1))
    ),
    "BlackmanWindow": Row(("int32", "int64"), "output_datatype periodic", (why.makes(*_F32),), how=LAYERS),
    "Cast": Row(_ALL, "saturate to", (why.equals("saturate", 1), why.dtype_is_moved)),
    "CastLike": Row(_ALL, "saturate", (why.equals("saturate", 1), why.dtype_is_moved)),
    "Ceil": Row(_FLOATS),
    "Celu": Row(_F32, "alpha", how=LAYERS),
    "Clip": Row(_NUMBERS, "max min", (why.clips,)),
    "Concat": Row(_HELD, "axis"),
    "Constant": Row(_HELD, "value value_float value_floats value_int value_ints", typed=None, how=FOLDED),
    "ConstantOfShape": Row(_MOVED, "value", typed=None),
    "Conv": Row(_FLOATS, f"group {_WINDOW}", (why.rank(3, 5), spatial.no_negative_pads, spatial.static_weights)),
    "ConvTranspose": Row(
        _FLOAT,
        f"group output_padding output_shape {_WINDOW}",
        (why.rank(3, 5), spatial.spreads, spatial.static_weights),
    ),
    "Cos": Row(_FLOATS),
    "Cosh": Row(_FLOATS),
    "CumSum": Row(_NUMBERS, "exclusive reverse", (why.constant(1),)),
    "DepthToSpace": Row(_NUMBERS, "blocksize mode"),
    "DequantizeLinear": Row(_QUANTIZED, "axis block_size output_dtype", (why.quantizes,)),
    "Div": Row(_NUMBERS),
    "Dropout": Row(_MOVED, "ratio seed", (why.not_training,)),
    "Einsum": Row(_FLOATS, "equation", (why.equation,)),
    "Elu": Row(_FLOATS, "alpha"),
    "Equal": Row(_MOVED),
    "Erf": Row(_FLOATS),
    "Exp": Row(_FLOATS),
    "Expand": Row(_HELD),
    "EyeLike": Row(_MOVED, "dtype k", (why.static(),), typed=None, how=LAYERS),
    "Flatten": Row(_HELD, "axis"),
    "Floor": Row(_FLOATS),
    "GRU": Row(_FLOAT, f"linear_before_reset layout {_RNN}", _RNN_CHECKS, how=LAYERS),
    "Gather": Row(_HELD, "axis", (why.gathers,)),
    "GatherElements": Row(_HELD, "axis", (why.gathers,)),
    "GatherND": Row(_HELD, "batch_dims", (why.gathers,)),
    "Gelu": Row(_FLOATS, "approximate"),
    "Gemm": Row(_FLOATS, "alpha beta transA transB", (why.leaves_out_c,), how=LAYERS),
    "GlobalAveragePool": Row(_FLOATS, "", (why.rank(3),)),
    "GlobalLpPool": Row(_FLOAT, "p", (why.rank(3), why.equals("p", 2)), how=LAYERS),
    "GlobalMaxPool": Row(_FLOATS, "", (why.rank(3),)),
    "Greater": Row(_NUMBERS),
    "GreaterOrEqual": Row(_NUMBERS, how=LAYERS),
    "GridSample": Row(_FLOATS, "align_corners mode padding_mode"),
    "GroupNormalization": Row(_FLOATS, "epsilon num_groups stash_type", (why.rank(3), why.groups), low=18),
    "HammingWindow": Row(("int32", "int64"), "output_datatype periodic", (why.makes(*_F32),), how=LAYERS),
    "HannWindow": Row(("int32", "int64"), "output_datatype periodic", (why.makes(*_F32),), how=LAYERS),
    "HardSigmoid": Row(_FLOATS, "alpha beta"),
    "HardSwish": Row(_FLOAT, how=LAYERS),
    "Hardmax": Row(_FLOATS, "axis", (why.rank(2), why.hard_maximum), how=LAYERS),
    "Identity": Row(_ALL),
    "If": Row((), "else_branch then_branch", (control.branches,), how="TensorRT conditional"),
    "InstanceNormalization": Row(_FLOATS, "epsilon", (why.rank(3),)),
    "IsInf": Row(_FLOATS, "detect_negative detect_positive"),
    "IsNaN": Row(_FLOATS),
    "LRN": Row(_FLOATS, "alpha beta bias size", (why.rank(4), spatial.odd_window)),
    "LSTM": Row(_FLOATS, f"input_forget layout {_RNN}", (*_RNN_CHECKS, why.equals("input_forget", 0)), how=LAYERS),
    "LayerNormalization": Row(_FLOATS, "axis epsilon stash_type", (why.outputs(1), why.equals("stash_type", 1))),
    "LeakyRelu": Row(_FLOATS, "alpha"),
    "Less": Row(_NUMBERS),
    "LessOrEqual": Row(_NUMBERS, how=LAYERS),
    "Log": Row(_FLOATS),
    "LogSoftmax": Row(
        (),
        "axis",
        (why.never("its old form: TensorRT's parser takes the log of a softmax, -inf where ONNX's is finite"),),
        how=LOWERED,
    ),
    "Loop": Row((), "body", (control.loops,), how="TensorRT loop"),
    "LpNormalization": Row(_FLOAT, "axis p", how=LAYERS),
    "LpPool": Row(
        _FLOAT,
        f"ceil_mode p {_WINDOW}",
        (why.rank(4, 5), spatial.all_ones("dilations"), why.equals("p", 2, 1), spatial.pools),
        how=LAYERS,
    ),
    "MatMul": Row(_FLOATS, "", (why.multiplies,)),
    "Max": Row(_NUMBERS),
    "MaxPool": Row(
        _FLOATS, f"ceil_mode storage_order {_WINDOW}", (why.outputs(1), spatial.all_ones("dilations"), spatial.pools)
    ),
    "Mean": Row(_FLOATS, how=LAYERS),
    "MeanVarianceNormalization": Row(_F32, "axes", how=LAYERS),
    "Min": Row(_NUMBERS),
    "Mish": Row(_FLOAT, how=LAYERS),
    "Mod": Row(_NUMBERS, "fmod", (why.float_unless("fmod"),), how=LAYERS),
    "Mul": Row(_NUMBERS),
    "Neg": Row(_NUMBERS),
    "NonMaxSuppression": Row(
        _FLOAT, "center_point_box", (why.constant(2, 3, 4), why.keeps_batch_of_boxes), only="tensorrt"
    ),
    "Not": Row(("bool",)),
    "OneHot": Row(_HELD, "axis", (why.one_hot,), typed=2),
    "Or": Row(("bool",)),
    "PRelu": Row(_FLOATS),
    "Pad": Row(_HELD, "mode pads value", (spatial.pads,)),
    "Pow": Row(_NUMBERS),
    "QuantizeLinear": Row(
        _FLOATS,
        "axis block_size output_dtype precision saturate",
        (why.equals("saturate", 1), why.equals("precision", 0), why.quantizes),
    ),
    "RMSNormalization": Row(_FLOATS, "axis epsilon stash_type", (why.equals("stash_type", 1),), how=LAYERS),
    "RNN": Row(_FLOATS, f"layout {_RNN}", _RNN_CHECKS, how=LAYERS),
    "Range": Row(("float32", "int32", "int64"), "", (why.ranges,)),
    "Reciprocal": Row(_FLOATS),
    "ReduceL1": Row(_NUMBERS, _REDUCE, (why.reduces,), how=LAYERS),
    "ReduceL2": Row(_FLOATS, _REDUCE, (why.reduces,), how=LAYERS),
    "ReduceLogSum": Row(_FLOATS, _REDUCE, (why.reduces,), how=LAYERS),
    "ReduceLogSumExp": Row(_FLOATS, _REDUCE, (why.reduces,), how=LAYERS),
    "ReduceMax": Row(_NUMBERS, _REDUCE, (why.reduces,)),
    "ReduceMean": Row(_NUMBERS, _REDUCE, (why.reduces,)),
    "ReduceMin": Row(_NUMBERS, _REDUCE, (why.reduces,)),
    "ReduceProd": Row(_NUMBERS, _REDUCE, (why.reduces,)),
    "ReduceSum": Row(_NUMBERS, _REDUCE, (why.reduces,)),
    "ReduceSumSquare": Row(_NUMBERS, _REDUCE, (why.reduces,), how=LAYERS),
    "Relu": Row((*_FLOATS, "int64")),
    "Reshape": Row(_HELD, "allowzero"),
    "Resize": Row(
        _FLOATS,
        "antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside keep_aspect_ratio_policy mode "
        "nearest_mode extrapolation_value",
        (why.equals("antialias", 0), why.equals("keep_aspect_ratio_policy", "stretch"), spatial.resizes),
    ),
    "ReverseSequence": Row(_HELD, "batch_axis time_axis"),
    "RotaryEmbedding": Row(_FLOATS, "interleaved num_heads rotary_embedding_dim", low=23),
    "Round": Row(_FLOATS),
    "STFT": Row(_F32, "onesided", (why.constant(1, 2, 3),), how=LAYERS),
    "Scan": Row(
        (),
        "body num_scan_inputs scan_input_axes scan_input_directions scan_output_axes scan_output_directions",
        (control.scan_axes,),
        how="TensorRT loop",
    ),
    "Scatter": Row(_HELD, "axis", (why.scatters,)),
    "ScatterElements": Row(_HELD, "axis reduction", (why.scatters,)),
    "ScatterND": Row(_HELD, "reduction", (why.scatters,)),
    "Selu": Row(_FLOATS, "alpha gamma", (why.explicit("alpha"), why.explicit("gamma"))),
    "Shape": Row(_ALL, "end start"),
    "Shrink": Row((*_FLOAT, "int32", "int64"), "bias lambd", how=LAYERS),
    "Sigmoid": Row(_FLOATS),
    "Sign": Row(_NUMBERS),
    "Sin": Row(_FLOATS),
    "Sinh": Row(_FLOATS),
    "Size": Row(_ALL, how=LAYERS),
    "Slice": Row(_HELD, "axes ends starts", (why.constant(3),)),
    "Softmax": Row(_FLOATS, "axis", (why.rank(2),)),
    "Softplus": Row(_FLOATS),
    "Softsign": Row(_FLOATS),
    "SpaceToDepth": Row(_NUMBERS, "blocksize mode", (why.equals("mode", "DCR"),)),
    "Split": Row(_HELD, "axis num_outputs split", (why.constant(1),), how=LAYERS),
    "Sqrt": Row(_FLOATS),
    "Squeeze": Row(_HELD, "axes", (why.squeezes,)),
    "Sub": Row(_NUMBERS),
    "Sum": Row(_NUMBERS, how=LAYERS),
    "Swish": Row(_FLOATS, "alpha", how=LAYERS, low=24),
    "Tan": Row(_FLOATS),
    "Tanh": Row(_FLOATS),
    "TensorScatter": Row(_FLOATS, "axis mode", (why.equals("mode", "linear"), why.scatters_cache), low=24),
    "ThresholdedRelu": Row(_FLOATS, "alpha"),
    "Tile": Row(_HELD),
    "TopK": Row(_NUMBERS, "axis largest sorted", (why.top_k,)),
    "Transpose": Row(_HELD, "perm"),
    "Trilu": Row(_MOVED, "upper", (why.explicit("upper"), why.no_empty_input(1)), how=LAYERS),
    "Unsqueeze": Row(_HELD, "axes", (why.constant(1),)),
    "Upsample": Row(_FLOATS, "mode", (spatial.resizes,)),
    "Where": Row(_HELD, typed=1),
    "Xor": Row(("bool",)),
    "trt.TRT_Attention": Row(
        _FLOATS,
        "TRT_decomposable TRT_normalization_op causal_kind",
        low=1,
    ),
}


def supports(node: ir.Node, imports: Mapping[str, int], flavour_name: str) -> Yes | No:
    """Whether the target runs the node as ONNX means it; `node` is one of a lowered graph."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain == "ingot" and node.op_type in DECLARED:
        return Yes(PLUGIN)
    row = _TABLE.get(f"{domain}.{node.op_type}" if domain else node.op_type)
    if row is None:
        return No(_unknown(node, domain, flavour_name))
    if row.only not in (None, flavour_name):
        return No(f"{node.op_type} has no kernel in {flavour_name}; {row.only} has one")
    version = node.version or imports.get(node.domain, imports.get("ai.onnx", 1))
    if version < row.low or (version > NEWEST and domain == ""):
        return No(f"{node.op_type} of operator set {version}; the target takes {row.low} to {NEWEST}")
    asked = Asked(node, version)
    reason = _dtypes(asked, row) or _attributes(node, row) or _ranks(asked)
    reasons = (reason, *(check(asked) for check in row.checks)) if reason is None else (reason,)
    found = next((each for each in reasons if each is not None), None)
    if found is None:
        return Yes(row.how)
    return No(f"{node.op_type}{': ' if found.startswith(('it ', 'its ')) else ' with '}{found}")


def _unknown(node: ir.Node, domain: str, flavour_name: str) -> str:
    if domain:
        return f"{domain}.{node.op_type} is of a domain that the parser of {flavour_name} does not know, or mistakes"
    instead = INSTEAD.get(node.op_type, "write it by operators that have one, or compile for target cpu")
    return f"{node.op_type} has no layer in {flavour_name}; {instead}"


def _dtypes(asked: Asked, row: Row) -> str | None:
    values = [*asked.node.inputs, *asked.node.outputs]
    for value in values:
        dtype = dtype_of(value)
        if dtype is not None and dtype not in _KNOWN:
            return f"{_NAMES.get(dtype, f'{dtype}, which TensorRT has not')}"
    dtype = dtype_of(asked.node.outputs[0]) if row.typed is None else asked.dtype(row.typed)
    if dtype is None or not row.dtypes or dtype in row.dtypes:
        return None
    return f"{dtype}; TensorRT takes {', '.join(row.dtypes)}"


def _attributes(node: ir.Node, row: Row) -> str | None:
    known = row.attributes.split()
    for name, attribute in node.attributes.items():
        if name not in known and attribute.type != ir.AttributeType.UNDEFINED:
            return f"the attribute {name}, which TensorRT's parser passes over"
    return None


def _ranks(asked: Asked) -> str | None:
    for index in range(len(asked.node.inputs)):
        found = asked.rank(index)
        if found is not None and found > LARGEST_RANK:
            return f"{found} dims; TensorRT has at most {LARGEST_RANK}"
    return None


def coverage(flavour_name: str) -> list[Covered]:
    """A row for each operator, in alphabetical order."""
    rows = [
        Covered(name, row.low, None if name.startswith("trt.") else NEWEST, row.dtypes, row.how)
        for name, row in _TABLE.items()
        if row.only in (None, flavour_name)
    ]
    rows += [Covered(f"ingot.{name}", 1, None, (), PLUGIN) for name in DECLARED]
    return sorted(rows, key=lambda row: row.operator)


def unsupported(model: ir.Model, flavour_name: str) -> list[tuple[ir.Node, No]]:
    """The nodes of a lowered graph, and of the bodies inside it, that the target does not run."""
    answers = ((node, supports(node, model.opset_imports, flavour_name)) for node in _nodes(model.graph))
    return [(node, answer) for node, answer in answers if isinstance(answer, No)]


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def refusals(model: ir.Model) -> list[str]:
    """What the parser would change that is of no one node: the graph's own inputs and outputs."""
    found = []
    for value in model.graph.inputs:
        if value.is_graph_output():
            found.append(f"the input {value.name} is an output too, which TensorRT's parser renames")
        if value.name in model.graph.initializers:
            found.append(f"the input {value.name} has a default, which TensorRT's parser makes a constant")
    for value in [*model.graph.inputs, *model.graph.outputs]:
        dtype = dtype_of(value)
        if dtype is not None and dtype not in _ALL:
            found.append(f"{value.name} is {_NAMES.get(dtype, f'{dtype}, which TensorRT has not as input or output')}")
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            found.append(f"{value.name} is no tensor; TensorRT has neither sequences nor optionals")
    return found


UNREAD = {("Shape", 0), ("Size", 0), ("EyeLike", 0), ("CastLike", 1), ("Dropout", 1)}
"""Inputs of which only the dims or the dtype count, or nothing outside of training: the parser need not read them."""


def unread_inputs(model: ir.Model) -> list[str]:
    """The graph's inputs whose elements nothing reads: those that `audit` must not miss in the parsed network."""
    return [
        value.name or ""
        for value in model.graph.inputs
        if all((use.node.op_type, use.idx) in UNREAD for use in value.uses()) and not value.is_graph_output()
    ]
