"""Runs a graph in ONNX Runtime's CUDA provider: from arrays on the host, or from arrays on the GPU that stay there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.backends.onnxruntime.session import ELEMENT_TYPES, OrtSession, failed_run
from ingot.device.array import DeviceArray, View, check_place
from ingot.device.context import left_behind
from ingot.errors import EngineError
from ingot.signature import Signature, Tensor, linear

if TYPE_CHECKING:
    from ingot.device.context import Cuda

    Array = np.ndarray[Any, Any]

Shape = tuple[int, ...]

Place = Callable[[int, Shape], View | None]
"""Where the output of this number, which has this shape, goes; None: into an array of the session's own."""

NOT_WAITED_FOR = "disable_synchronize_execution_providers"


class CudaSession(OrtSession):
    """One ONNX Runtime session on one GPU and one stream. Safe from many threads; not across a fork.

    Runs of all threads follow each other in that stream: ONNX Runtime takes it when the session is made.
    """

    def __init__(
        self,
        session: Any,
        signature: Signature,
        errors: tuple[type[BaseException], ...],
        cuda: Cuda,
        stream: int,
        *,
        path: str,
    ) -> None:
        """`stream` is the one that the session was made with; it is given back by `close`."""
        super().__init__(session, signature, errors, path=path, forks=False)
        self._session: Any = session
        self._signature = signature
        self._cuda = cuda
        self._stream = stream
        self._lock = threading.Lock()
        self._bits = any(tensor.dtype == "bfloat16" for tensor in [*signature.inputs, *signature.outputs])

    @property
    def device(self) -> int:
        """The number of the GPU that it runs on."""
        return self._cuda.gpu.number

    def own_stream(self) -> int:
        """The stream in which a run without a stream of the caller's goes."""
        return self._stream

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Raises EngineError where ONNX Runtime or the GPU give up (memory, say), or after a fork."""
        with self._lock:
            return self._run_bits(inputs) if self._bits else super().run(inputs)

    def run_device(self, inputs: Sequence[View], place: Place, stream: int | None = None) -> list[object]:
        """One run on what lies on the GPU: each output's owner, as `place` says or a DeviceArray.

        stream  None: waited for. Any other: goes after what is in that, and what comes next in that goes after it; what
                is lent for the inputs must stay until then.

        Raises what `run` raises.
        """
        shapes = [view.shape for view in inputs]
        with self._lock:
            binding = self._binding()
            for tensor, view in zip(self._signature.inputs, inputs, strict=True):
                self._bind_input(binding, tensor, view)
            known = _output_shapes(self._signature, shapes)
            targets = [
                None if shape is None else self._target(number, shape, place) for number, shape in enumerate(known)
            ]
            for tensor, target in zip(self._signature.outputs, targets, strict=True):
                self._bind_output(binding, tensor, target)
            made_in = [view.stream for view in [*inputs, *filter(None, targets)]]
            for before in dict.fromkeys([stream, *made_in]):
                if before is not None:
                    self._follow(self._stream, before)
            self._enqueue(binding, shapes)
            found = [
                self._copied(value, number, place) if target is None else target
                for number, (value, target) in enumerate(zip(binding.get_outputs(), targets, strict=True))
            ]
            if stream is None:
                self._cuda.synchronize(self._stream)
            else:
                self._follow(stream, self._stream)
            for view in found:
                if isinstance(view.owner, DeviceArray):
                    view.owner.written(self._stream if stream is None else stream, done=stream is None)
        return [view.owner for view in found]

    def close(self) -> None:
        """A run that another thread began goes on to its end; memory and stream are given back after it."""
        super().close()
        if self._cuda.forked:
            return
        with self._lock:
            if self._session is not None:
                self._session = None
                self._cuda.destroy_stream(self._stream)

    def _binding(self) -> Any:
        if self.forked:
            raise self._left_behind()
        if self._session is None:
            raise EngineError("the engine was closed", fix="ingot.load(path) opens it again")
        return self._session.io_binding()

    def _bind_input(self, binding: Any, tensor: Tensor, view: View) -> None:
        check_place(view, tensor.name, self._cuda)
        kind = ELEMENT_TYPES[tensor.dtype]
        binding.bind_input(tensor.name, "cuda", self.device, kind, list(view.shape), view.pointer)

    def _bind_output(self, binding: Any, tensor: Tensor, view: View | None) -> None:
        if view is None:
            binding.bind_output(tensor.name, "cuda", self.device)
        else:
            check_place(view, tensor.name, self._cuda)
            kind = ELEMENT_TYPES[tensor.dtype]
            binding.bind_output(tensor.name, "cuda", self.device, kind, list(view.shape), view.pointer)

    def _target(self, number: int, shape: Shape, place: Place) -> View:
        view = place(number, shape)
        if view is not None:
            return view
        dtype = self._signature.outputs[number].dtype
        made = DeviceArray(self._cuda, shape, dtype, self._stream)
        return View(made.pointer, shape, dtype, self.device, None, made)

    def _copied(self, value: Any, number: int, place: Place) -> View:
        """An output whose size depends on more than the inputs' sizes: ONNX Runtime made room for it."""
        shape = tuple(value.shape())
        view = self._target(number, shape, place)
        check_place(view, self._signature.outputs[number].name, self._cuda)
        if view.stream is not None:
            self._follow(self._stream, view.stream)
        count = value.tensor_size_in_bytes()
        if count:
            self._cuda.copy(view.pointer, value.data_ptr(), count, self._stream)
            # ONNX Runtime's memory may go to others once the binding is gone.
            self._cuda.synchronize(self._stream)
        return view

    def _enqueue(self, binding: Any, shapes: Sequence[Shape]) -> None:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry(NOT_WAITED_FOR, "1")
        try:
            self._session.run_with_iobinding(binding, options)
        except self._errors as error:
            raise failed_run(error, shapes) from error

    def _run_bits(self, inputs: Sequence[Array]) -> list[Array]:
        """As `run`; bfloat16, which numpy lacks, comes and goes as bits."""
        binding = self._binding()
        for tensor, array in zip(self._signature.inputs, inputs, strict=True):
            address = array.__array_interface__["data"][0]
            kind = ELEMENT_TYPES[tensor.dtype]
            binding.bind_input(tensor.name, "cpu", 0, kind, list(array.shape), address)
        for tensor in self._signature.outputs:
            binding.bind_output(tensor.name, "cuda", self.device)
        self._enqueue(binding, [array.shape for array in inputs])
        found = []
        for tensor, value in zip(self._signature.outputs, binding.get_outputs(), strict=True):
            result = np.empty(value.shape(), "uint16" if tensor.dtype == "bfloat16" else tensor.dtype)
            if result.nbytes:
                address = result.__array_interface__["data"][0]
                self._cuda.to_host(address, value.data_ptr(), result.nbytes, self._stream)
            found.append(result)
        self._cuda.synchronize(self._stream)
        return found

    def _follow(self, stream: int, before: int) -> None:
        """What is put into `stream` from now on runs after what is in `before` now."""
        if stream == before:
            return
        event = self._cuda.create_event()
        try:
            self._cuda.record(event, before)
            self._cuda.wait(stream, event)
        finally:
            self._cuda.destroy_event(event)

    def _left_behind(self) -> EngineError:
        return left_behind(self._path)


def _output_shapes(signature: Signature, shapes: Sequence[Shape]) -> list[Shape | None]:
    """The outputs' shapes as far as they follow from the inputs' shapes, by the signature's dims; None for others."""
    sizes: dict[str, int] = {}
    for tensor, shape in zip(signature.inputs, shapes, strict=True):
        for axis, size in zip(tensor.shape, shape, strict=True):
            form = linear(axis) if isinstance(axis, str) else None
            value = None if form is None else form.solve(size)
            if form is not None and value is not None:
                sizes[form.dim] = value
    return [_shape(tensor, sizes) for tensor in signature.outputs]


def _shape(tensor: Tensor, sizes: Mapping[str, int]) -> Shape | None:
    found = []
    for axis in tensor.shape:
        if isinstance(axis, str):
            form = linear(axis)
            if form is None or form.dim not in sizes:
                return None
            found.append(form.size(sizes[form.dim]))
        else:
            found.append(axis)
    return tuple(found)
