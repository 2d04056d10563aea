"""One call of an engine with arrays that are on a GPU: checked, lent to the session, and results that stay there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ingot.device.array import View, is_default, stream_handle, torch_stream, view_of
from ingot.errors import InputError, UsageError
from ingot.runtime.arrays import is_on_gpu, is_torch
from ingot.runtime.binder import Binder
from ingot.signature import Tensor

Shape = tuple[int, ...]


class DeviceSession(Protocol):
    """What a session has besides where its target takes arrays on the GPU."""

    def own_stream(self) -> int:
        """The stream of the calling thread."""
        ...

    def run_device(
        self, inputs: Sequence[View], place: Callable[[int, Shape], View | None], stream: int | None = None
    ) -> list[object]:
        """Contiguous arrays of the declared dtypes, in the order of the signature's inputs; the outputs' owners.

        `place` says where the output of a number and shape goes, None: into an array of the session's own. A `stream`
        of None is waited for.
        """
        ...


def run_on_gpu(
    session: Any,
    target: str,
    binder: Binder,
    tensors: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    values: Sequence[object],
    *,
    stream: object = None,
    outputs: Mapping[str, object] | None = None,
) -> list[Any]:
    """The results in the order of the signature's outputs: what `outputs` names, torch tensors where an input is one,
    DeviceArrays otherwise.

    Without `stream`, torch tensors run in torch's current stream and anything else is waited for.
    Raises InputError; the values are not looked at, so domains are not checked.
    """
    takes, gives = tensors
    if not hasattr(session, "run_device"):
        raise _reads_host(target, takes, values)
    device_session: DeviceSession = session
    for tensor, value in zip(takes, values, strict=True):
        if not is_on_gpu(value):
            raise _host(tensor, value)
    sample = next((value for value in values if is_torch(value)), None)
    given = _given(outputs or {}, gives)
    handle = None if stream is None else stream_handle(stream)
    if handle is None and sample is not None:
        handle = torch_stream(sample.device.index or 0)  # type: ignore[attr-defined]
    work = device_session.own_stream() if handle is None or is_default(handle) else handle
    views = [_checked(view_of(value, tensor.name, work), tensor) for tensor, value in zip(takes, values, strict=True)]
    binder.check_shapes(tuple([view.shape for view in views]))

    def place(number: int, shape: Shape) -> View | None:
        tensor = gives[number]
        if tensor.name in given:
            value = given[tensor.name]
            view = _checked(view_of(value, tensor.name, work), tensor)
            if view.shape != shape:
                raise InputError(
                    f"output '{tensor.name}' has room for {list(view.shape)}, and this run gives {list(shape)}",
                    fix=f"an array of {list(shape)}, or leave it out of outputs=",
                )
            return view._replace(owner=value)
        if sample is None:
            return None
        return view_of(_torch_like(sample, shape, tensor), tensor.name, work)

    return device_session.run_device(views, place, handle)


def _given(outputs: Mapping[str, object], gives: tuple[Tensor, ...]) -> Mapping[str, object]:
    names = [tensor.name for tensor in gives]
    for name, value in outputs.items():
        if name not in names:
            raise InputError(f"there is no output '{name}'; there are {', '.join(names)}")
        if not is_on_gpu(value):
            raise InputError(
                f"output '{name}' is to go to the GPU, and this is {_kind(value)}", fix="torch.empty(…, device='cuda')"
            )
    return outputs


def _torch_like(sample: Any, shape: Shape, tensor: Tensor) -> Any:
    """An empty torch tensor beside `sample`: torch's own allocator knows in which stream it is used."""
    import sys

    return sample.new_empty(shape, dtype=getattr(sys.modules["torch"], tensor.dtype), requires_grad=False)


def _checked(view: View, tensor: Tensor) -> View:
    """Nothing is converted on the GPU: the dtype must be the declared one."""
    if view.dtype != tensor.dtype:
        name = tensor.name.rpartition(".")[2]
        raise InputError(
            f"'{tensor.name}' is {view.dtype} on the GPU, and must be {tensor.dtype}",
            where=str(tensor),
            fix=f"{name}.to(torch.{tensor.dtype}), or {name}.astype('{tensor.dtype}')",
        )
    return view


def _host(tensor: Tensor, value: object) -> InputError:
    name = tensor.name.rpartition(".")[2]
    moved = f"{name}.cuda()" if is_torch(value) else f"torch.as_tensor({name}).cuda()"
    return InputError(
        f"input '{tensor.name}' is {_kind(value)}, and all inputs of this call must be on the GPU",
        where=str(tensor),
        fix=f"{moved}, or every input on the host",
    )


def _reads_host(target: str, takes: tuple[Tensor, ...], values: Sequence[object]) -> UsageError:
    tensor = next((tensor for tensor, value in zip(takes, values, strict=True) if is_on_gpu(value)), None)
    if tensor is None:
        return UsageError(
            f"target {target} reads the host's memory: it runs nothing on arrays that stay on a GPU",
            fix="engine(…) with arrays on the host, or an engine with a GPU target",
        )
    name = tensor.name.rpartition(".")[2]
    return InputError(
        f"input '{tensor.name}' is on a GPU, and target {target} reads the CPU's memory",
        where=str(tensor),
        fix=f"{name}.cpu(), or an engine with a GPU target",
    )


def _kind(value: object) -> str:
    if is_torch(value):
        return f"a torch tensor on {value.device}"  # type: ignore[attr-defined]
    return f"{type(value).__name__} in the host's memory"
