"""Runs a plan: from arrays on the host, or from arrays on the GPU that stay there; never run on a GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ingot.backends.tensorrt.lane import ALIGNMENT_BYTES, Lane
from ingot.device.array import DeviceArray, View, check_place, is_default, size_bytes
from ingot.device.context import left_behind
from ingot.errors import EngineError, InputError

if TYPE_CHECKING:
    from ingot.backends.tensorrt.messages import Messages
    from ingot.device.context import Cuda

    Array = np.ndarray[Any, Any]

Shape = tuple[int, ...]

Place = Callable[[int, Shape], View | None]
"""Where the output of this number, which has this shape, goes; None: into an array of the session's own."""


class Port(NamedTuple):
    """One input or output.

    host      TensorRT reads or writes it in the host's memory, as it decides shapes
    profiles  the least and the greatest shape in each of the plan's profiles
    unread    an input that the model itself does not read, and the plan does not have
    """

    name: str
    dtype: str
    host: bool
    profiles: tuple[tuple[Shape, Shape], ...] = ()
    unread: bool = False


class Plan(NamedTuple):
    """A plan that TensorRT has taken. `kept` are objects that it uses without owning them."""

    engine: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    target: str
    path: str
    kept: tuple[object, ...] = ()


class TensorRtSession:
    """One plan, one execution context a thread. Safe from many threads; not across a fork.

    Runs that one thread begins on several streams follow each other: they share the memory of one execution context.
    """

    def __init__(self, plan: Plan, cuda: Cuda, messages: Messages) -> None:
        self._plan: Plan | None = plan
        self._path = plan.path
        self._cuda = cuda
        self._messages = messages
        self._lanes = threading.local()
        # Reentrant: a signal's handler may close what its own thread is running.
        self._lock = threading.RLock()

    @property
    def device(self) -> int:
        """The number of the GPU that it runs on."""
        return self._cuda.gpu.number

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Raises InputError for shapes outside of the plan's profiles, EngineError where the GPU or TensorRT fail."""
        plan = self._open()
        index = _profile(plan, [array.shape for array in inputs])
        where = ", ".join(f"{port.name} {list(array.shape)}" for port, array in zip(plan.inputs, inputs, strict=True))
        with self._cuda.current(), self._guarded(where):
            holder = self._holder(plan)
            return self._run_host(plan, holder.lane, index, inputs)

    def own_stream(self) -> int:
        """This thread's stream, in which a run without a stream of the caller's goes."""
        with self._cuda.current():
            return self._holder(self._open()).lane.stream

    def run_device(self, inputs: Sequence[View], place: Place, stream: int | None = None) -> list[object]:
        """One run on what lies on the GPU: each output's owner, as `place` says or a DeviceArray.

        stream  None: waited for. One of the driver's default streams: goes after what is in that, in this thread's own,
                and what comes next in that goes after it. Any other: is put there and not waited for; what is lent for
                the inputs must stay until that stream has done it.

        Raises what `run` raises.
        """
        plan = self._open()
        for port, view in zip(plan.inputs, inputs, strict=True):
            check_place(view, port.name, self._cuda)
        index = _profile(plan, [view.shape for view in inputs])
        where = ", ".join(f"{port.name} {list(view.shape)}" for port, view in zip(plan.inputs, inputs, strict=True))
        with self._cuda.current(), self._guarded(where):
            holder = self._holder(plan)
            return self._run_views(plan, holder.lane, index, inputs, place, stream)

    def close(self) -> None:
        """A run that another thread began goes on to its end; memory is given back after it."""
        if self._cuda.forked:
            return
        with self._lock:
            plan, lanes = self._plan, self._lanes
            self._plan, self._lanes = None, threading.local()
        with suppress(EngineError), self._cuda.current():
            del plan, lanes

    def _open(self) -> Plan:
        if self._cuda.forked:
            raise left_behind(self._path)
        if self._plan is None:
            raise EngineError("the engine was closed", fix="ingot.load(path) opens it again")
        return self._plan

    def _holder(self, plan: Plan) -> _Holder:
        """This thread's lane. Whoever runs holds it as well: so closing lets the run end."""
        lanes = self._lanes
        holder: _Holder | None = getattr(lanes, "holder", None)
        if holder is None:
            # TensorRT's engine makes one context at a time.
            with self._lock:
                holder = _Holder(Lane(self._cuda, lambda: self._context(plan)), plan)
                # Closed meanwhile, it goes with the run.
                if self._plan is plan:
                    lanes.holder = holder
        return holder

    def _context(self, plan: Plan) -> Any:
        self._messages.clear()
        context = plan.engine.create_execution_context()
        if context is None:
            free, total = self._cuda.memory_bytes()
            raise EngineError(
                f"TensorRT makes no execution context: {self._messages.said()}",
                where=f"{plan.path}; {free:,} of the GPU's {total:,} bytes are free",
                fix="fewer threads, each of which has a context, or nvidia-smi: who has the memory",
            )
        return context

    def _run_host(self, plan: Plan, lane: Lane, index: int, inputs: Sequence[Array]) -> list[Array]:
        cuda, stream = self._cuda, lane.stream
        lane.begin(stream)
        self._choose(plan, lane, index, stream)
        for port, array in zip(plan.inputs, inputs, strict=True):
            if port.unread:
                continue
            address = array.__array_interface__["data"][0]
            if not port.host:
                pointer = lane.buffer(port.name, array.nbytes)
                if array.nbytes:
                    cuda.to_device(pointer, address, array.nbytes, stream)
                address = pointer
            self._bind_input(lane, port, array.shape, address)
        results: list[Array] = []
        copies = []
        for port, shape in zip(plan.outputs, self._shapes(plan, lane), strict=True):
            result = np.empty(shape, "uint16" if port.dtype == "bfloat16" else port.dtype)
            address = result.__array_interface__["data"][0]
            if not port.host:
                pointer = lane.buffer(port.name, result.nbytes)
                copies.append((address, pointer, result.nbytes))
                address = pointer
            self._bind(lane, port, address)
            results.append(result)
        self._enqueue(lane, stream)
        for address, pointer, count in copies:
            if count:
                cuda.to_host(address, pointer, count, stream)
        cuda.synchronize(stream)
        lane.end(stream, done=True)
        return results

    def _run_views(
        self, plan: Plan, lane: Lane, index: int, inputs: Sequence[View], place: Place, stream: int | None
    ) -> list[object]:
        cuda = self._cuda
        work = lane.stream if stream is None or is_default(stream) else stream
        lane.begin(work)
        for before in dict.fromkeys([stream, *(view.stream for view in inputs)]):
            if before is not None:
                lane.follow(work, before)
        self._choose(plan, lane, index, work)
        held = [self._lend(lane, port, view, work) for port, view in zip(plan.inputs, inputs, strict=True)]
        outputs = []
        for number, (port, shape) in enumerate(zip(plan.outputs, self._shapes(plan, lane), strict=True)):
            view = place(number, shape)
            if view is None:
                made = DeviceArray(cuda, shape, port.dtype, work)
                view = View(made.pointer, shape, port.dtype, self.device, None, made)
            elif view.stream is not None:
                lane.follow(work, view.stream)
            check_place(view, port.name, self._cuda)
            outputs.append((port, view, *self._output(lane, port, view)))
        self._enqueue(lane, work)
        for port, view, address, content in outputs:
            count = size_bytes(view.shape, port.dtype)
            if content is not None and count:
                cuda.synchronize(work)
                cuda.to_device(view.pointer, address, count, work)
            elif address != view.pointer and count:
                cuda.copy(view.pointer, address, count, work)
        if stream is None:
            cuda.synchronize(work)
        elif work != stream:
            lane.follow(stream, work)
        lane.end(work, done=stream is None)
        for _, view, _, _ in outputs:
            if isinstance(view.owner, DeviceArray):
                view.owner.written(work if stream is None else stream, done=stream is None)
        del held
        return [view.owner for _, view, _, _ in outputs]

    def _lend(self, lane: Lane, port: Port, view: View, stream: int) -> object:
        """Tells TensorRT where an input is; what is returned must live until it was read."""
        held: object = view.owner
        if port.unread:
            return held
        count = size_bytes(view.shape, port.dtype)
        address = view.pointer
        if port.host:
            held = content = np.empty(max(1, count), np.uint8)
            address = content.__array_interface__["data"][0]
            if count:
                self._cuda.to_host(address, view.pointer, count, stream)
            self._cuda.synchronize(stream)
        elif address % ALIGNMENT_BYTES or not address:
            address = lane.buffer(port.name, count)
            if count:
                self._cuda.copy(address, view.pointer, count, stream)
        self._bind_input(lane, port, view.shape, address)
        return held

    def _output(self, lane: Lane, port: Port, view: View) -> tuple[int, object]:
        """(address, content): where TensorRT writes, and the host's memory if it is there."""
        content, address = None, view.pointer
        if port.host:
            content = np.empty(max(1, size_bytes(view.shape, port.dtype)), np.uint8)
            address = content.__array_interface__["data"][0]
        elif address % ALIGNMENT_BYTES or not address:
            address = lane.buffer(port.name, size_bytes(view.shape, port.dtype))
        self._bind(lane, port, address)
        return address, content

    def _choose(self, plan: Plan, lane: Lane, index: int, stream: int) -> None:
        self._messages.clear()
        if lane.profile != index:
            if not lane.context.set_optimization_profile_async(index, stream):
                raise self._refused(f"profile {index}")
            lane.profile = index

    def _bind_input(self, lane: Lane, port: Port, shape: Shape, address: int) -> None:
        if not lane.context.set_input_shape(port.name, shape):
            raise self._refused(f"the shape {list(shape)} of '{port.name}'")
        self._bind(lane, port, address)

    def _bind(self, lane: Lane, port: Port, address: int) -> None:
        if not lane.context.set_tensor_address(port.name, address):
            raise self._refused(f"the memory of '{port.name}'")

    def _shapes(self, plan: Plan, lane: Lane) -> list[Shape]:
        """Of the outputs, every input being bound."""
        try:
            missing = lane.context.infer_shapes()
        except RuntimeError as error:
            raise self._refused("these shapes") from error
        if missing:
            raise self._refused(f"the inputs {', '.join(missing)} as given")
        shapes = []
        for port in plan.outputs:
            shape = tuple(int(size) for size in lane.context.get_tensor_shape(port.name))
            if any(size < 0 for size in shape):
                raise EngineError(
                    f"the size of output '{port.name}' depends on the values of the inputs, which is not run here",
                    where=f"{plan.path}: {list(shape)}",
                    fix="ingot.load(path, target='cpu')",
                )
            shapes.append(shape)
        return shapes

    def _enqueue(self, lane: Lane, stream: int) -> None:
        if not lane.context.execute_async_v3(stream):
            raise EngineError(
                f"TensorRT failed while running: {self._messages.said()}",
                fix="a smaller batch, if memory ran out; ingot verify FILE tells whether the engine runs here at all",
            )

    def _refused(self, what: str) -> EngineError:
        return EngineError(f"TensorRT refuses {what}: {self._messages.said()}", fix="ingot verify FILE")

    @contextmanager
    def _guarded(self, where: str) -> Iterator[None]:
        """After a failure the lane goes with its memory: the next run begins with a new one."""
        try:
            yield
        except InputError:
            raise
        except BaseException as error:
            holder = self._lanes.__dict__.pop("holder", None)
            if holder is not None:
                # At once: who keeps the error keeps the frames of the run, and so what they hold.
                holder.free()
            if isinstance(error, EngineError) and error.where is None:
                raise type(error)(error.what, where=where, fix=error.fix) from error
            raise


class _Holder:
    """Keeps a lane: it is freed when neither its thread nor a run holds it."""

    def __init__(self, lane: Lane, plan: Plan) -> None:
        self.lane = lane
        self.free = weakref.finalize(self, _free, lane, plan)


def _free(lane: Lane, plan: Plan) -> None:
    """`plan` is here to outlive what was made of it."""
    lane.free()


def _profile(plan: Plan, shapes: Sequence[Shape]) -> int:
    """The first profile that takes these shapes. Raises InputError with the profiles where none does."""
    count = max((len(port.profiles) for port in plan.inputs), default=1)
    for index in range(count):
        pairs = zip(plan.inputs, shapes, strict=True)
        if all(_fits(shape, *port.profiles[index]) for port, shape in pairs if port.profiles):
            return index
    for port, shape in zip(plan.inputs, shapes, strict=True):
        if port.profiles and not any(_fits(shape, *bounds) for bounds in port.profiles):
            raise _outside(plan, port, shape)
    bounded = [port for port in plan.inputs if port.profiles]
    spans = "; ".join(", ".join(f"{port.name} {_span(port, index)}" for port in bounded) for index in range(count))
    raise InputError(f"no profile of the engine takes these shapes together; it has {spans}")


def _fits(shape: Shape, low: Shape, high: Shape) -> bool:
    return len(shape) == len(low) and all(a <= size <= b for size, a, b in zip(shape, low, high, strict=True))


def _span(port: Port, index: int) -> str:
    low, high = port.profiles[index]
    axes = [str(a) if a == b else f"{a} .. {b}" for a, b in zip(low, high, strict=True)]
    return f"[{', '.join(axes)}]"


def _outside(plan: Plan, port: Port, shape: Shape) -> InputError:
    low, high = port.profiles[0]
    axis = next((i for i, (size, a, b) in enumerate(zip(shape, low, high, strict=False)) if not a <= size <= b), None)
    spans = " or ".join(dict.fromkeys(_span(port, index) for index in range(len(port.profiles))))
    if axis is None:
        what = f"input '{port.name}' has {len(shape)} axes, and must have {len(low)}"
    else:
        what = f"axis {axis} of input '{port.name}' is {shape[axis]}, outside of the engine's profile {spans}"
    return InputError(
        what,
        where=f"{plan.path}, given {list(shape)}",
        fix=f"sizes in {spans}; others are asked for when compiling: --shape {port.name}=…, --target {plan.target}",
    )
