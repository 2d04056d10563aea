"""An engine's graph in ONNX Runtime, its weights read straight out of the engine file."""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ingot.backends.needs import ONE_RUNTIME, unmet
from ingot.errors import EngineError, FormatError, RequirementError
from ingot.file.header import Target
from ingot.machine import this_machine

if TYPE_CHECKING:
    import numpy as np

    from ingot.file.read import EngineFile
    from ingot.signature import Signature

    Array = np.ndarray[Any, Any]

LOCATION_BYTES = 300
LOCATION = b"./" * (LOCATION_BYTES // 2)
"""Where the graph says that its weights lie. ONNX Runtime opens external data by file name, and an engine file may be
renamed: at load these bytes are overwritten in place by the real name, padded in front to the same length."""

OPTIMIZATIONS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

CONFIG_KEYS = frozenset(
    {
        "session.disable_prepacking",
        "session.dynamic_block_base",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.set_denormal_as_zero",
        "session.use_device_allocator_for_initializers",
    }
)
"""What a file may set. Not among them: what names a path or a library, which a file from a stranger must not choose."""


ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
"""ONNX's numbers of dtypes (TensorProto.DataType)."""


class _Cause(NamedTuple):
    """What an error of ONNX Runtime says, in other words."""

    sign: re.Pattern[str]
    what: str
    fix: str


_CAUSES = (
    _Cause(
        re.compile("out of memory|failed to allocate memory|std::bad_alloc|smaller than requested bytes", re.I),
        "memory ran out",
        "a smaller batch, or close what else holds the memory",
    ),
    _Cause(re.compile("cuDNN is unavailable"), "cuDNN does not load", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
)


class Options(NamedTuple):
    """What the header asks of ONNX Runtime, checked."""

    optimization: str
    config: Mapping[str, str]
    disabled_optimizers: list[str]


class OrtSession:
    """One ONNX Runtime session. Safe from many threads; not across a fork, which leaves its threads behind."""

    def __init__(
        self,
        session: Any,
        signature: Signature,
        errors: tuple[type[BaseException], ...],
        *,
        path: str,
        forks: bool,
    ) -> None:
        """`forks`: a child of a fork may go on with it. Raises FormatError where the signature names other inputs and
        outputs than the graph."""
        self._inputs = [tensor.name for tensor in signature.inputs]
        self._outputs = [tensor.name for tensor in signature.outputs]
        _check_names("inputs", self._inputs, [value.name for value in session.get_inputs()], path)
        _check_names("outputs", self._outputs, [value.name for value in session.get_outputs()], path)
        # The Python method around it checks names, which is done here, at 7 µs a run; it is not public, so may be
        # absent.
        inner = getattr(session, "_sess", None)
        self._run = session.run if inner is None else inner.run
        if any(tensor.dtype == "bfloat16" for tensor in (*signature.inputs, *signature.outputs)):
            self._run = partial(_run_bits, session, signature)
        self._errors = errors
        self._path = path
        self.forked = False
        if not forks:
            _bound.add(self)

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Raises EngineError where ONNX Runtime gives up (memory, say), or where this process was forked after load."""
        if self.forked:
            raise self._left_behind()
        try:
            found: list[Array] = self._run(self._outputs, dict(zip(self._inputs, inputs, strict=True)), None)
        except self._errors as error:
            raise failed_run(error, [array.shape for array in inputs]) from error
        return found

    def close(self) -> None:
        """A run that another thread began goes on to its end; the memory is given back after it."""
        self._run = _closed

    def _left_behind(self) -> EngineError:
        return EngineError(
            "the engine was loaded before this process was forked: its threads stayed in the parent",
            where=self._path,
            fix=f"ingot.load({self._path!r}) in the child, or threads=1 in the parent",
        )


def _run_bits(session: Any, signature: Signature, outputs: object, feeds: Mapping[str, Array], options: object) -> Any:
    """As InferenceSession.run; bfloat16, which numpy lacks, comes and goes as bits."""
    import numpy as np

    binding = session.io_binding()
    for tensor in signature.inputs:
        array = feeds[tensor.name]
        address, shape = array.__array_interface__["data"][0], list(array.shape)
        binding.bind_input(tensor.name, "cpu", 0, ELEMENT_TYPES[tensor.dtype], shape, address)
    for tensor in signature.outputs:
        binding.bind_output(tensor.name, "cpu")
    session.run_with_iobinding(binding)
    found = []
    for tensor, value in zip(signature.outputs, binding.get_outputs(), strict=True):
        result = np.empty(value.shape(), "uint16" if tensor.dtype == "bfloat16" else tensor.dtype)
        if result.nbytes:
            ctypes.memmove(result.__array_interface__["data"][0], value.data_ptr(), result.nbytes)
        found.append(result)
    return found


def import_runtime(target: str, distribution: str, extra: str) -> Any:
    """The module onnxruntime. Raises RequirementError where it is missing, of another kind, or double."""
    if lacking := unmet(Target(target, {}, {distribution: ""}), this_machine()):
        need = lacking[0]
        raise RequirementError(f"target {target} needs {need.requirement}, found {need.found}", fix=need.fix)
    try:
        import onnxruntime
    except ImportError as error:
        fix = ONE_RUNTIME.format(extra=extra)
        raise RequirementError(f"onnxruntime does not import: {error}", fix=fix) from error
    return onnxruntime


def make_session(
    onnxruntime: Any, file: EngineFile, target: Target, chosen: Options, *, threads: int, providers: Sequence[Any]
) -> Any:
    """Raises EngineError where ONNX Runtime refuses the graph, or where the file cannot be found by its name."""
    graph, path = file.read(_member(target, "graph")), file.real_path
    session = open_graph(onnxruntime, graph, path, chosen, threads=threads, providers=providers, where=file.path)
    if not file.in_place():
        raise EngineError(
            "the engine file was replaced while it was being loaded", where=file.path, fix="load it again"
        )
    return session


def open_graph(
    onnxruntime: Any,
    graph: bytes,
    weights: str,
    chosen: Options,
    *,
    threads: int,
    providers: Sequence[Any],
    where: str,
) -> Any:
    """`weights` is the path of the file that has them, without links. Raises EngineError, which names `where`."""
    folder, name = os.path.split(weights)
    options = _session_options(onnxruntime, chosen, threads)
    try:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    except UnicodeEncodeError as error:
        raise EngineError(
            "the engine file lies in a folder whose name is not UTF-8, which ONNX Runtime cannot open",
            where=repr(folder),
            fix="move the file",
        ) from error
    try:
        return onnxruntime.InferenceSession(
            graph.replace(LOCATION, location_of(name)),
            options,
            providers=providers,
            disabled_optimizers=chosen.disabled_optimizers,
            enable_fallback=0,
        )
    except errors_of(onnxruntime) as error:
        raise _refused(error, onnxruntime.__version__, where) from error


def checked_options(target: Target) -> Options:
    """Raises FormatError where the file's options have another shape than ONNX Runtime's targets have."""
    level = str(target.options.get("optimization", "basic"))
    if level not in OPTIMIZATIONS:
        raise FormatError(f"the header asks for an optimization {level!r:.40}; there are {', '.join(OPTIMIZATIONS)}")
    config = target.options.get("config", {})
    if not isinstance(config, dict):
        raise FormatError(f"the header's config for ONNX Runtime is {config!r:.80}, and must be an object")
    for key, value in config.items():
        if key not in CONFIG_KEYS:
            raise FormatError(f"the header sets {key!r:.80}, which an engine file may not")
        if not (isinstance(value, str | int) and _is_word(str(value))):
            raise FormatError(f"the header sets {key} to {value!r:.80}, which is no value of it")
    disabled = target.options.get("disabled_optimizers", [])
    if not isinstance(disabled, list) or not all(isinstance(name, str) and _is_word(name) for name in disabled):
        raise FormatError(f"the header's disabled_optimizers are {disabled!r:.80}, and must be a list of names")
    return Options(level, {key: str(value) for key, value in config.items()}, disabled)


def location_of(name: str) -> bytes:
    """A file's name padded in front to LOCATION_BYTES; "./" and "//" mean nothing in a path."""
    encoded = os.fsencode(name)
    missing = LOCATION_BYTES - len(encoded)
    return b"./" * (missing // 2) + b"/" * (missing % 2) + encoded


def errors_of(onnxruntime: Any) -> tuple[type[BaseException], ...]:
    """ONNX Runtime's exceptions, which have no common base, and what its binding raises for a wrong argument."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    own: Iterable[Any] = (getattr(state, name) for name in dir(state))
    raised = [kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*raised, RuntimeError, ValueError)


def failed_run(error: BaseException, shapes: Sequence[Sequence[int]]) -> EngineError:
    """What to raise for ONNX Runtime's `error` in a run on inputs of these shapes."""
    cause = _cause(error)
    return EngineError(
        f"{cause.what if cause else 'ONNX Runtime failed'} while running: {_said(error)}",
        where=f"inputs of {', '.join(str(list(shape)) for shape in shapes)}",
        fix=cause.fix if cause else "ingot verify FILE tells whether the engine runs here at all",
    )


def _refused(error: BaseException, version: str, path: str) -> EngineError:
    if cause := _cause(error):
        return EngineError(f"{cause.what} while the engine was loaded: {_said(error)}", where=path, fix=cause.fix)
    return EngineError(
        f"ONNX Runtime {version} refuses the engine's graph: {_said(error)}",
        where=path,
        fix="ingot check FILE; if that is content, compile the engine again beside this ONNX Runtime",
    )


def _cause(error: BaseException) -> _Cause | None:
    text = str(error)
    return next((cause for cause in _CAUSES if cause.sign.search(text)), None)


_bound: weakref.WeakSet[OrtSession] = weakref.WeakSet()


def _mark_forked() -> None:
    for session in _bound:
        session.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _closed(outputs: object, feeds: object, options: object) -> Any:
    raise EngineError("the engine was closed", fix="ingot.load(path) opens it again")


def _session_options(onnxruntime: Any, chosen: Options, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATIONS[chosen.optimization])
    for key, value in chosen.config.items():
        options.add_session_config_entry(key, value)
    return options


def _is_word(text: str) -> bool:
    """What an option may be: ONNX Runtime raises errors of many kinds for texts that are too long or no UTF-8."""
    return len(text) <= 200 and text.isascii() and text.isprintable()


def _member(target: Target, role: str) -> str:
    if role not in target.members:
        raise FormatError(f"target {target.name} has no {role}")
    return target.members[role]


def _check_names(side: str, declared: list[str], found: list[str], path: str) -> None:
    if declared != found:
        raise FormatError(
            f"the graph's {side} are {', '.join(found)}, the header declares {', '.join(declared)}", where=path
        )


def _said(error: BaseException) -> str:
    """The first line without the runtime's own prefix, cut to a length that can be read."""
    text = str(error).strip().partition("\n")[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)[:400]
