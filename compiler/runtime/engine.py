"""An engine in use: called like the model, from any number of threads, and saved as the one file that it is."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ingot.errors import UsageError
from ingot.file.header import Header, Target
from ingot.runtime.arrays import Array, array_dtype, is_on_gpu, is_torch, to_result
from ingot.runtime.binder import Binder
from ingot.runtime.output import assembler
from ingot.signature import Dim, Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from ingot.backends.contract import Session
    from ingot.file.read import EngineFile
    from ingot.runtime.report import Report


class Engine:
    """A model ready to run, as `ingot.compile` and `ingot.load` give it. Safe to call from many threads.

        engine(input_ids=ids, attention_mask=mask)      engine(x)

    Takes numpy arrays, torch tensors, lists, in the structure that the model's forward takes; gives that of its result
    as `Output` (a result of one tensor: that array). Where an argument is a torch tensor, results are torch tensors.
    An array must have the declared dtype or one that widens into it whatever the values (int32 to int64, float16 to
    float32, bool to an integer); lists and numbers become the declared dtype where that is exact, floats rounded.
    Integers must lie in their input's domain. Arguments that were constants when compiled may be left out.
    A result in bfloat16 comes as float32 in numpy, which has no bfloat16.

    Where every argument is an array on the GPU that the engine runs on, nothing is copied and results stay there:
    torch tensors where one is given, in torch's current stream; otherwise `ingot.device.array.DeviceArray`s.

    A context manager; `close()`, or forgetting the engine, gives back its memory.
    """

    def __init__(
        self,
        file: EngineFile,
        target: Target,
        session: Session,
        *,
        threads: int,
        why: str = "",
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """`why` says why it is this target.

        `on_close` runs once when the engine is closed, collected, or the interpreter ends; not in a forked child.

        Raises FormatError where the header's signature contradicts itself.
        """
        signature = file.header.signature
        for tensor in signature.outputs:
            array_dtype(tensor)
        self._file = file
        self._target = target
        self.why = why
        """Why it runs on this target, and not on another of the file's."""
        self._threads = threads
        self._binder = Binder(file.header.name, signature)
        self._assemble = assembler(signature.result)
        self._as_they_are = all(tensor.dtype != "bfloat16" for tensor in signature.outputs)
        self._session: Session | None = session
        self._release = weakref.finalize(self, _release, os.getpid(), session, file, on_close)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One run. Raises InputError for what does not fit, before anything is computed."""
        session = self._session or self._closed()
        arrays = self._binder.quick(args, kwargs)
        torch = False
        if arrays is None:
            values = self._binder.flat(args, kwargs)
            if any(map(is_on_gpu, values)):
                return self._assemble(self._on_gpu(values))
            arrays, torch = self._binder.arrays(values), any(map(is_torch, values))
        flat: Sequence[Any] = session.run(arrays)
        if torch or not self._as_they_are:
            flat = [to_result(array, tensor, torch=torch) for array, tensor in zip(flat, self.outputs, strict=True)]
        return self._assemble(flat)

    def run_named(self, inputs: Mapping[str, object]) -> dict[str, Array]:
        """One run by flat names, `inputs[i].name` to `outputs[i].name`, checked like a call; bfloat16 results as bits.

        Raises InputError.
        """
        session = self._session or self._closed()
        flat = session.run(self._binder.arrays(self._binder.named(inputs)))
        return {tensor.name: array for tensor, array in zip(self.outputs, flat, strict=True)}

    def run_device(
        self, inputs: Mapping[str, object], *, stream: object = None, outputs: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """One run by flat names on arrays of the engine's GPU, none copied; results stay there.

        Arrays are anything with DLPack or `__cuda_array_interface__`: contiguous, of the declared dtype. Their values
        are not looked at, so a domain is not checked.

        stream   a CUDA stream (torch's, cupy's, or a handle): the run is put there and not waited for, and what it
                 reads must stay until the stream has done it. Without one, torch tensors run in torch's current
                 stream, and any other call returns when it is done
        outputs  arrays to write results to, by name; others are new: torch tensors where an input is one, DeviceArrays

        Raises InputError for what does not fit, UsageError where the target reads the host's memory.
        """
        flat = self._on_gpu(self._binder.named(inputs), stream=stream, outputs=outputs)
        return {tensor.name: array for tensor, array in zip(self.outputs, flat, strict=True)}

    def run_flat(self, arrays: Sequence[Array]) -> list[Array]:
        """One run without checks: contiguous arrays of the declared dtypes (bfloat16 as bits), in `inputs`' order."""
        return list((self._session or self._closed()).run(arrays))

    @property
    def header(self) -> Header:
        return self._file.header

    @property
    def name(self) -> str:
        return self._file.header.name

    @property
    def path(self) -> Path:
        """The file that the engine runs from; one that was not saved yet is a temporary."""
        from pathlib import Path

        return Path(self._file.path)

    @property
    def threads(self) -> int:
        """Of one run."""
        return self._threads

    @property
    def target(self) -> str:
        return self._target.name

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Each tensor that a run takes: name, dtype, axes, domain."""
        return self._file.header.signature.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._file.header.signature.outputs

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The axes that vary, each with the sizes it may take."""
        return self._file.header.signature.dims

    @cached_property
    def report(self) -> Report:
        """What the file says about itself: how it was verified, what wrote it, and its record (accuracy, timings).

        Raises FormatError where the record is damaged.
        """
        if self._session is None:
            self._closed()
        from ingot.runtime.report import Report

        with self._file.duplicate() as descriptor:
            size_bytes = os.fstat(descriptor).st_size
        return Report(self._file.header, self._file.record(), size_bytes=size_bytes)

    def member(self, name: str) -> bytes:
        """The bytes of one member of the file, its digest checked."""
        if self._session is None:
            self._closed()
        return self._file.read(name)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the engine to `path`, whole or not at all; the engine goes on running from where it was.

        Raises UsageError where `path` cannot be written.
        """
        if self._session is None:
            self._closed()
        # Here and above: what a load does not need, it does not import.
        from pathlib import Path

        from ingot.file.write import copy_engine

        with self._file.duplicate() as descriptor:
            copy_engine(descriptor, Path(path))
        return Path(path)

    def close(self) -> None:
        """Gives back memory and file; calls after it raise. Closing again does nothing."""
        self._session = None
        self._release()

    def __enter__(self) -> Engine:
        if self._session is None:
            self._closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"engine '{self.name}' cannot be pickled: it holds memory mapped from its file",
            fix=f"ingot.load({str(self.path)!r}) in the other process",
        )

    def __repr__(self) -> str:
        if self._session is None:
            return f"<Engine {self.name}, closed>"
        takes, gives = (", ".join(map(str, tensors)) for tensors in (self.inputs, self.outputs))
        return f"<Engine {self.name} on {self.target}: {takes} -> {gives}>"

    def _on_gpu(self, values: Sequence[object], **options: Any) -> list[Any]:
        session = self._session or self._closed()
        # Engines on the CPU never import it.
        from ingot.runtime.on_gpu import run_on_gpu

        return run_on_gpu(session, self.target, self._binder, (self.inputs, self.outputs), values, **options)

    def _closed(self) -> NoReturn:
        raise UsageError(f"engine '{self.name}' was closed", fix=f"ingot.load({str(self.path)!r}) opens it again")


def _release(owner: int, session: Session, file: EngineFile, on_close: Callable[[], None] | None) -> None:
    # A forked child has neither the session's threads nor the right to remove the parent's file.
    if os.getpid() != owner:
        return
    try:
        session.close()
        file.close()
    finally:
        if on_close is not None:
            on_close()
