"""Runs the lowered graph on ONNX Runtime: the proof that lowering kept its meaning, where no GPU is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.backends.tensorrt.lowering.insert import Inserter, take_over
from ingot.errors import BuildError, EngineError
from ingot.ir.rewrite import all_nodes, fresh_name, value_names
from ingot.signature import Signature

Array = np.ndarray[Any, Any]

BFLOAT16, FLOAT = ir.DataType.BFLOAT16, ir.DataType.FLOAT

INLINE_BYTES = 1 << 16
"""Up to here a tensor stays in the graph, where ONNX Runtime reads sizes and axes from it."""

GIVEN = (FLOAT, ir.DataType.FLOAT16, BFLOAT16, ir.DataType.INT8, ir.DataType.INT32, ir.DataType.INT64)
"""The dtypes of weights that ONNX Runtime takes from memory."""


def for_onnxruntime(lowered: ir.Model) -> ir.Model:
    """A copy that ONNX Runtime runs: bodies and all, and bfloat16 computed in float32.

    Its kernels on a CPU lack bfloat16. So every operator there reads float32 and rounds what it gives to bfloat16, as
    a kernel does that accumulates in float32; inputs and outputs of bfloat16 are float32 of the same values.
    """
    graph = lowered.clone()
    names = value_names(graph)
    for node in all_nodes(graph):
        if node.op_type == "Cast" or (node.domain, node.op_type, node.overload) in graph.functions:
            continue
        insert = Inserter(node, names)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == BFLOAT16:
                node.replace_input_with(index, insert("Cast", value, dtype=FLOAT, shape=value.shape, to=int(FLOAT)))
        for value in node.outputs:
            if value.dtype == BFLOAT16 and value.name:
                _rounded(node, value, names)
    _widen_interface(graph, names)
    return graph


def _rounded(node: ir.Node, value: ir.Value, names: set[str]) -> None:
    """What read `value` reads it rounded to bfloat16; the node itself gives float32."""
    assert node.graph is not None
    cast = ir.node("Cast", [None], {"to": int(BFLOAT16)})
    take_over(value, cast.outputs[0])
    value.name = fresh_name(f"{cast.outputs[0].name}_wide", names)
    value.type = ir.TensorType(FLOAT)
    cast.replace_input_with(0, value)
    node.graph.insert_after(node, cast)


def _widen_interface(model: ir.Model, names: set[str]) -> None:
    graph = model.graph
    for index, value in enumerate(graph.inputs):
        if value.dtype == BFLOAT16:
            name, value.name = value.name, fresh_name(f"{value.name}_narrow", names)
            wide = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=value.shape)
            cast = ir.node("Cast", [wide], {"to": int(BFLOAT16)})
            take_over(value, cast.outputs[0])
            graph.inputs[index] = wide
            first = next(iter(graph), None)
            if first is None:
                graph.append(cast)
            else:
                graph.insert_before(first, cast)
    for index, value in enumerate(graph.outputs):
        if value.dtype == BFLOAT16:
            cast = ir.node("Cast", [value], {"to": int(FLOAT)})
            name, value.name = value.name, fresh_name(f"{value.name}_narrow", names)
            cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, FLOAT, value.shape
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]


class OrtSession:
    """The graph of `for_onnxruntime` as a session of the contract: bfloat16 comes and goes as its bits in uint16."""

    def __init__(self, session: Any, signature: Signature, errors: tuple[type[BaseException], ...]) -> None:
        self._session = session
        self._signature = signature
        self._errors = errors

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Raises EngineError where ONNX Runtime fails on these inputs."""
        if self._session is None:
            raise EngineError("the proof was closed", fix="open it again")
        feeds = {
            tensor.name: _wide(array) if tensor.dtype == "bfloat16" else array
            for tensor, array in zip(self._signature.inputs, inputs, strict=True)
        }
        outputs = self._signature.outputs
        try:
            found = self._session.run([tensor.name for tensor in outputs], feeds)
        except self._errors as error:
            raise EngineError(f"ONNX Runtime failed while running the lowered graph: {error}") from error
        return [
            _narrow(array) if tensor.dtype == "bfloat16" else array
            for tensor, array in zip(outputs, found, strict=True)
        ]

    def close(self) -> None:
        self._session = None


def ort_session(lowered: ir.Model, signature: Signature, threads: int = 1) -> OrtSession:
    """The lowered graph on the CPU; it stays as it is, and weights are given from memory.

    Raises BuildError where ONNX Runtime refuses it.
    """
    import onnxruntime

    graph = for_onnxruntime(lowered)
    weights = _outside(graph)
    state = onnxruntime.capi.onnxruntime_pybind11_state
    own = [getattr(state, name) for name in dir(state)]
    errors = tuple(kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Only what is exact: a fusion would be proven instead of the graph.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        values = [_value(onnxruntime.OrtValue, tensor) for tensor in weights.values()]
        options.add_external_initializers(list(weights), values)
        session = onnxruntime.InferenceSession(
            ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except errors as error:
        raise BuildError(
            f"ONNX Runtime {onnxruntime.__version__} does not run the lowered graph, so it cannot be proven: {error}"
        ) from error
    return OrtSession(session, signature, (*errors, RuntimeError, ValueError))


def _outside(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Takes the large weights out of the graph, by name."""
    taken: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE_BYTES or tensor.dtype not in GIVEN:
            continue
        taken[name] = tensor
        sizes = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=sizes, name=name)
    return taken


def _value(kind: Any, tensor: ir.TensorProtocol) -> Any:
    array = np.ascontiguousarray(tensor.numpy())
    if tensor.dtype == BFLOAT16:
        return kind.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), int(BFLOAT16))
    return kind.ortvalue_from_numpy(array)


def _wide(bits: Array) -> Array:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _narrow(array: Array) -> Array:
    """The upper half of each: a value of bfloat16 has zeros in the lower."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
