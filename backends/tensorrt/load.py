"""The production side of both TensorRT targets: from a plan in an engine file to a session; never run on a GPU.

What calls the GPU is written against TensorRT's and the driver's documented interfaces, and tested with stand-ins for
both that move real bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ingot.backends.needs import unmet
from ingot.cuda_driver import this_driver
from ingot.errors import EngineError, FormatError, RequirementError
from ingot.file.header import Target
from ingot.machine import Machine, Unmet, this_machine
from ingot.signature import Tensor

if TYPE_CHECKING:
    from ingot.backends.tensorrt.flavours import Flavour
    from ingot.backends.tensorrt.messages import Messages
    from ingot.backends.tensorrt.session import Plan, Port, TensorRtSession
    from ingot.device.context import Cuda
    from ingot.file.read import EngineFile

VERSIONS = {"tensorrt": ">=11.4,<12", "tensorrt-rtx": ">=1.7,<1.8"}
"""What the code here is written for; a plan asks for the very version that built it."""

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
        for lacking in unmet(target, this_machine()):
            raise RequirementError(
                f"target {self.name} needs {lacking.requirement}, found {lacking.found}",
                where=file.path,
                fix=lacking.fix,
            )
        if "plan" not in target.members:
            raise FormatError(f"target {self.name} has no plan", where=file.path)
        # The digest is checked before TensorRT sees a byte.
        content = file.read(target.members["plan"])
        trt = self._module()

        # The path of `ingot check` pays for none of these.
        from ingot.backends.tensorrt.messages import messages_of
        from ingot.backends.tensorrt.plugin import host as plugin_host
        from ingot.backends.tensorrt.session import TensorRtSession
        from ingot.device.context import open_cuda

        cuda = open_cuda(_gpu(target))
        messages = messages_of(trt)
        with cuda.current():
            plugins = plugin_host.register(trt, _listed(target, "plugins"), file.read, cuda)
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

        unread = _listed(target, "unread")
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


def _listed(target: Target, option: str) -> list[Any]:
    found = target.options.get(option, [])
    if not isinstance(found, list):
        raise FormatError(f"the header's {option} are {found!r:.80}, and must be a list")
    return found


def _gpu(target: Target) -> int:
    """The first GPU of an architecture that the plan is for."""
    wanted = target.needs.get("gpu", "")
    return next((gpu.number for gpu in this_driver().gpus if not wanted or gpu.arch in wanted.split(",")), 0)


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
