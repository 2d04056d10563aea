"""The production side of both TensorRT targets: from a plan in an engine file to a session; never run on a GPU.

What calls the GPU is written against TensorRT's and the driver's documented interfaces, and tested with stand-ins for
both that move real bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ingot.backends.needs import fitting_gpu, require, unmet
from ingot.errors import EngineError, FormatError, RequirementError
from ingot.file.header import Target
from ingot.machine import Machine, Unmet
from ingot.signature import Tensor

if TYPE_CHECKING:
    from ingot.backends.tensorrt.flavours import Flavour
    from ingot.backends.tensorrt.messages import Messages
    from ingot.backends.tensorrt.session import Plan, Port, TensorRtSession
    from ingot.device.context import Cuda
    from ingot.file.read import EngineFile
    from ingot.signature import Signature

VERSIONS = {"tensorrt": ">=11.4,<12", "tensorrt-rtx": ">=1.7,<1.8"}
"""What the code here is written for; a plan asks for the very version that built it."""

LARGEST = 2**31 - 1
"""Size of an axis that TensorRT counts to."""

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's names of the dtypes that an input or output may have, and ours."""


class TensorRtLoader:
    """The production side of one of the flavours, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def _flavour(self) -> Flavour:
        # Not needed, so not imported, where `ingot check` only asks what is unmet.
        from ingot.backends.tensorrt.flavours import FLAVOURS

        return FLAVOURS[self.name]

    @property
    def needs(self) -> Mapping[str, str]:
        return self._package | {"cuda": self._flavour.cuda, "gpu": ""}

    @property
    def build_needs(self) -> Mapping[str, str]:
        return self._package if self._flavour.builds_without_gpu else self.needs

    @property
    def _package(self) -> dict[str, str]:
        return {self._flavour.distribution: VERSIONS[self.name]}

    def unmet(self, target: Target, machine: Machine) -> list[Unmet]:
        """From names of folders and the driver; TensorRT is not imported."""
        return unmet(target, machine)

    def load(self, file: EngineFile, target: Target, *, threads: int) -> TensorRtSession:
        """`threads` are the processor's, and play no part. Whether the file's code may run was asked before.

        Raises RequirementError where this machine lacks something, FormatError where the plan's bytes or names are not
        what the header says, EngineError where TensorRT refuses the plan, with its reason.
        """
        require(target, file.path)
        check_options(target, file.header.signature)
        # The path of `ingot check` pays for none of these.
        from ingot.backends.tensorrt.messages import messages_of
        from ingot.backends.tensorrt.plugin import host as plugin_host
        from ingot.backends.tensorrt.session import TensorRtSession
        from ingot.device.context import open_cuda

        entries = _listed(target, "plugins")
        with _located(file.path):
            plugin_host.check(entries, file.header.members)
        # Its digest is checked before TensorRT sees a byte.
        content = _plan_bytes(file, target)
        trt = self._module()
        cuda = open_cuda(fitting_gpu(target))
        messages = messages_of(trt)
        with cuda.current():
            with _located(file.path):
                plugins = plugin_host.register(trt, entries, file.read, cuda)
            messages.clear()
            runtime = trt.Runtime(messages.logger)
            # A plan that holds a library which the header does not own up to is refused by TensorRT itself.
            runtime.engine_host_code_allowed = "code" in target.needs
            engine = self._engine(runtime, content, file, cuda, messages, plugins)
        return TensorRtSession(self._plan(trt, engine, file, target, (runtime, plugins)), cuda, messages)

    def _module(self) -> Any:
        flavour = self._flavour
        try:
            return import_module(flavour.module)
        except (ImportError, OSError) as error:
            fix = f"pip install --force-reinstall '{flavour.distribution}{VERSIONS[flavour.name]}'"
            raise RequirementError(f"{flavour.distribution} does not import: {error}", fix=fix) from error

    def _engine(
        self, runtime: Any, content: bytes, file: EngineFile, cuda: Cuda, messages: Messages, plugins: Any
    ) -> Any:
        try:
            engine = runtime.deserialize_cuda_engine(content)
        except (RuntimeError, ValueError, TypeError) as error:
            raise self._refused(str(error) or messages.said(), runtime, content, file, cuda) from error
        if engine is None:
            if plugins.problem:
                raise EngineError(plugins.problem, where=file.path, fix="compile the model again")
            raise self._refused(messages.said(), runtime, content, file, cuda)
        return engine

    def _refused(self, said: str, runtime: Any, content: bytes, file: EngineFile, cuda: Cuda) -> EngineError:
        free, total = cuda.memory_bytes()
        return EngineError(
            f"{self._flavour.distribution} refuses the plan: {said}{_diagnosis(runtime, content)}",
            where=f"{file.path}; GPU {cuda.gpu.number}, {cuda.gpu.name} ({cuda.gpu.arch}), "
            f"{free:,} of {total:,} bytes free",
            fix=f"compile the model again for this machine: ingot compile MODEL --target {self.name}"
            + (f" --arch {cuda.gpu.arch}" if self._flavour.builds_without_gpu else ""),
        )

    def _plan(self, trt: Any, engine: Any, file: EngineFile, target: Target, kept: tuple[object, ...]) -> Plan:
        from ingot.backends.tensorrt.session import Plan, Port

        unread = target.options.get("unread", [])
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        signature = file.header.signature
        sides = {
            "inputs": (signature.inputs, trt.TensorIOMode.INPUT),
            "outputs": (signature.outputs, trt.TensorIOMode.OUTPUT),
        }
        ports: dict[str, tuple[Port, ...]] = {}
        for side, (tensors, mode) in sides.items():
            declared, found = [t.name for t in tensors], [name for name in names if modes[name] == mode]
            missing = [name for name in declared if name not in found and name not in unread]
            if missing or not set(found) <= set(declared):
                raise FormatError(
                    f"the plan's {side} are {', '.join(found)}, the header declares {', '.join(declared)}",
                    where=file.path,
                )
            ports[side] = tuple(
                _port(trt, engine, tensor, file, is_input=side == "inputs")
                if tensor.name in found
                else Port(tensor.name, tensor.dtype, host=False, unread=True)
                for tensor in tensors
            )
        return Plan(engine, ports["inputs"], ports["outputs"], self.name, file.path, kept)


@contextmanager
def _located(path: str) -> Iterator[None]:
    """What is raised inside names the file."""
    try:
        yield
    except EngineError as error:
        if error.where:
            raise
        raise type(error)(error.what, where=path, fix=error.fix) from error


def check_options(target: Target, signature: Signature) -> None:
    """Raises FormatError where the header's options have another shape than a plan's have."""
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    proven = target.options.get("proven", False)
    if not isinstance(proven, bool):
        raise FormatError(f"the header's proven is {proven!r:.80}, and must be true or false")
    for name in _listed(target, "unread"):
        if not isinstance(name, str) or name not in inputs:
            raise FormatError(f"the header lists {name!r:.80} as unread, which is no input of the engine")
    profiles = target.options.get("profiles", {})
    if not isinstance(profiles, dict):
        raise FormatError(f"the header's profiles are {profiles!r:.80}, and must be an object of inputs")
    for name, ends in profiles.items():
        if name not in inputs:
            raise FormatError(f"the header has a profile of {name!r:.80}, which is no input of the engine")
        if not _are_ends(ends, len(inputs[name].shape)):
            raise FormatError(
                f"the header's profile of '{name}' is {ends!r:.80}, not its least, usual and greatest shape"
            )


def _are_ends(ends: Any, rank: int) -> bool:
    """Whether these are three shapes, each as large as the one before."""
    if not isinstance(ends, list) or len(ends) != 3:
        return False
    if not all(isinstance(shape, list) and len(shape) == rank for shape in ends):
        return False
    sizes = [size for shape in ends for size in shape]
    rising = zip(*ends, strict=True)
    return all(type(size) is int and 0 <= size <= LARGEST for size in sizes) and all(a <= b <= c for a, b, c in rising)


def _plan_bytes(file: EngineFile, target: Target) -> bytes:
    if "plan" not in target.members:
        raise FormatError(f"target {target.name} has no plan", where=file.path)
    content = file.read(target.members["plan"])
    if not content:
        raise FormatError(f"the plan of target {target.name} is empty", where=file.path)
    return content


def _listed(target: Target, option: str) -> list[Any]:
    found = target.options.get(option, [])
    if not isinstance(found, list):
        raise FormatError(f"the header's {option} are {found!r:.80}, and must be a list")
    return found


def _port(trt: Any, engine: Any, tensor: Tensor, file: EngineFile, *, is_input: bool) -> Port:
    from ingot.backends.tensorrt.session import Port

    dtype = engine.get_tensor_dtype(tensor.name).name
    if DTYPES.get(dtype) != tensor.dtype:
        raise FormatError(
            f"the plan's '{tensor.name}' is {DTYPES.get(dtype, dtype)}, the header declares {tensor.dtype}",
            where=file.path,
        )
    profiles = []
    for index in range(engine.num_optimization_profiles if is_input else 0):
        low, _, high = engine.get_tensor_profile_shape(tensor.name, index)
        profiles.append((_sizes(low), _sizes(high)))
    host = engine.get_tensor_location(tensor.name) == trt.TensorLocation.HOST
    return Port(tensor.name, tensor.dtype, host, tuple(profiles))


def _sizes(dims: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(size) for size in dims)


def _diagnosis(runtime: Any, content: bytes) -> str:
    """What the plan's own header says is wrong here, where this TensorRT reads it."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    flags = int(runtime.get_engine_validity(content)[1])
    reasons = [text for bit, text in _INVALID.items() if flags & bit]
    return f" ({'; '.join(reasons)})" if reasons else ""


_INVALID = {
    1: "built by another version",
    2: "not built for this GPU",
    4: "the NVIDIA driver is too old",
    8: "the CUDA runtime is too old",
    16: "the GPU has too little memory",
    32: "the plan is malformed",
    64: "CUDA itself fails",
}
"""EngineInvalidityDiagnostics."""


LOADER = TensorRtLoader("tensorrt")
