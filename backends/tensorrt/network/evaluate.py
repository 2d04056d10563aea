"""Evaluates a TensorRT network on the CPU, layer by layer, by what TensorRT documents of each kind of layer.

A network is read after parsing, never the ONNX graph behind it: what the parser dropped or changed shows in the
numbers. float16 and bfloat16 keep their sums in float32, as TensorRT's kernels do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ingot.backends.tensorrt.network import attention, math, precision, shapes, spatial
from ingot.backends.tensorrt.network.control import Program, Step
from ingot.backends.tensorrt.network.plugins import Reference, plugin
from ingot.backends.tensorrt.network.values import (
    Array,
    Compute,
    EvaluationError,
    NotEvaluatedError,
    from_array,
    to_array,
    torch_dtype,
)

__all__ = ["EvaluationError", "NetworkEvaluator", "NotEvaluatedError", "evaluate"]

_KINDS: Mapping[str, tuple[str, Callable[[Any], Compute]]] = {
    "ACTIVATION": ("IActivationLayer", math.activation),
    "ASSERTION": ("IAssertionLayer", shapes.assertion),
    "ATTENTION_INPUT": ("IAttentionInputLayer", attention.attention),
    "ATTENTION_OUTPUT": ("IAttentionOutputLayer", attention.attention_output),
    "CAST": ("ICastLayer", precision.cast),
    "CONCATENATION": ("IConcatenationLayer", shapes.concatenation),
    "CONSTANT": ("IConstantLayer", shapes.constant),
    "CONVOLUTION": ("IConvolutionLayer", spatial.convolution),
    "CUMULATIVE": ("ICumulativeLayer", math.cumulative),
    "DECONVOLUTION": ("IDeconvolutionLayer", spatial.deconvolution),
    "DEQUANTIZE": ("IDequantizeLayer", precision.dequantize),
    "EINSUM": ("IEinsumLayer", math.einsum),
    "ELEMENTWISE": ("IElementWiseLayer", math.elementwise),
    "FILL": ("IFillLayer", shapes.fill),
    "GATHER": ("IGatherLayer", shapes.gather),
    "GRID_SAMPLE": ("IGridSampleLayer", spatial.grid_sample),
    "IDENTITY": ("IIdentityLayer", shapes.identity),
    "KV_CACHE_UPDATE": ("IKVCacheUpdateLayer", attention.kv_cache_update),
    "LRN": ("ILRNLayer", math.lrn),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", math.matrix_multiply),
    "NMS": ("INMSLayer", spatial.non_max_suppression),
    "NON_ZERO": ("INonZeroLayer", shapes.non_zero),
    "NORMALIZATION": ("INormalizationLayer", math.normalization),
    "ONE_HOT": ("IOneHotLayer", shapes.one_hot),
    "PADDING": ("IPaddingLayer", spatial.padding),
    "PARAMETRIC_RELU": ("IParametricReLULayer", math.parametric_relu),
    "POOLING": ("IPoolingLayer", spatial.pooling),
    "QUANTIZE": ("IQuantizeLayer", precision.quantize),
    "RAGGED_SOFTMAX": ("IRaggedSoftMaxLayer", math.ragged_softmax),
    "REDUCE": ("IReduceLayer", math.reduce),
    "RESIZE": ("IResizeLayer", spatial.resize),
    "REVERSE_SEQUENCE": ("IReverseSequenceLayer", shapes.reverse_sequence),
    "ROTARY_EMBEDDING": ("IRotaryEmbeddingLayer", attention.rotary_embedding),
    "SCALE": ("IScaleLayer", math.scale),
    "SCATTER": ("IScatterLayer", shapes.scatter),
    "SELECT": ("ISelectLayer", shapes.select),
    "SHAPE": ("IShapeLayer", shapes.shape),
    "SHUFFLE": ("IShuffleLayer", shapes.shuffle),
    "SLICE": ("ISliceLayer", shapes.slice_),
    "SOFTMAX": ("ISoftMaxLayer", math.softmax),
    "SQUEEZE": ("ISqueezeLayer", shapes.squeeze),
    "TOPK": ("ITopKLayer", math.top_k),
    "UNARY": ("IUnaryLayer", math.unary),
    "UNSQUEEZE": ("IUnsqueezeLayer", shapes.unsqueeze),
}

_CONTROL = {
    "CONDITION": "IConditionLayer",
    "CONDITIONAL_INPUT": "IIfConditionalInputLayer",
    "CONDITIONAL_OUTPUT": "IIfConditionalOutputLayer",
    "ITERATOR": "IIteratorLayer",
    "LOOP_OUTPUT": "ILoopOutputLayer",
    "RECURRENCE": "IRecurrenceLayer",
    "TRIP_LIMIT": "ITripLimitLayer",
}


class NetworkEvaluator:
    """A network decoded once, to be run many times.

    Holds views of the network's weights: the network, and what its weights were parsed from, must live as long.
    Raises, naming the layer, NotEvaluatedError for a kind or feature of layers that is not evaluated here, when it is
    made or from `run`; EvaluationError where the network itself does not compute: what it reads does not fit.
    """

    def __init__(self, network: Any, plugins: Mapping[str, Reference] | None = None) -> None:
        self._bindings = sys.modules[type(network).__module__]
        self._plugins = plugins or {}
        # A wrapper's identity stands for the tensor only while the wrapper lives.
        self._held: list[Any] = [network]
        self._inputs = {}
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            self._inputs[tensor.name] = (self._number(tensor), torch_dtype(tensor.dtype))
        steps = [self._step(network.get_layer(index)) for index in range(network.num_layers)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        self._outputs = {tensor.name: self._number(tensor) for tensor in outputs}
        self._program = Program(steps)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by name, bfloat16 as its bits in uint16. Inputs that the network does not have are ignored."""
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise EvaluationError(f"the network's inputs {', '.join(missing)} were not given")
        given = {number: from_array(inputs[name], dtype) for name, (number, dtype) in self._inputs.items()}
        with torch.no_grad():
            values = self._program.run(given, self._outputs.values())
        return {name: to_array(values[number]) for name, number in self._outputs.items()}

    def _number(self, tensor: Any) -> int:
        self._held.append(tensor)
        return id(tensor)

    def _step(self, layer: Any) -> Step:
        kind = layer.type.name
        read = [layer.get_input(index) for index in range(layer.num_inputs)]
        inputs = tuple(None if tensor is None else self._number(tensor) for tensor in read)
        made = [layer.get_output(index) for index in range(layer.num_outputs)]
        try:
            outputs = tuple(
                (self._number(tensor), torch_dtype(tensor.dtype), _dims(tensor))
                for tensor in made
                if tensor is not None
            )
            name = str(layer.name)
            if kind in _CONTROL:
                return self._control(layer, kind, inputs, outputs)
            return Step(name, kind, inputs, outputs, self._compute(layer, kind))
        except (NotEvaluatedError, EvaluationError) as error:
            raise type(error)(f"layer {layer.name} ({kind}): {error}") from error
        except RuntimeError as error:
            raise EvaluationError(f"layer {layer.name} ({kind}): {error}") from error

    def _compute(self, layer: Any, kind: str) -> Compute:
        if kind == "PLUGIN_V3":
            layer.__class__ = self._bindings.IPluginV3Layer
            return plugin(layer, self._plugins)
        if kind not in _KINDS:
            raise NotEvaluatedError("layers of this kind are not evaluated on the CPU")
        class_name, decode = _KINDS[kind]
        layer.__class__ = getattr(self._bindings, class_name)
        return decode(layer)

    def _control(self, layer: Any, kind: str, inputs: Any, outputs: Any) -> Step:
        layer.__class__ = getattr(self._bindings, _CONTROL[kind])
        scope = layer.conditional if kind.startswith("CONDITION") else layer.loop
        variant, axis = "", 0
        if kind in ("LOOP_OUTPUT", "TRIP_LIMIT"):
            variant = layer.kind.name
        if kind == "ITERATOR" and layer.reverse:
            variant = "REVERSE"
        if kind == "ITERATOR" or variant in ("CONCATENATE", "REVERSE"):
            axis = int(layer.axis)
        return Step(str(layer.name), kind, inputs, outputs, None, self._number(scope), variant, axis)


def _dims(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape)


def evaluate(
    network: Any, inputs: Mapping[str, Array], plugins: Mapping[str, Reference] | None = None
) -> dict[str, Array]:
    """The outputs of a TensorRT network by name, computed on the CPU; see NetworkEvaluator."""
    return NetworkEvaluator(network, plugins).run(inputs)
