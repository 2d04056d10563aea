"""A stand-in for TensorRT's Python package at run time: its plans are JSON, and run on a FakeGpu's streams.

Each class has only members of TensorRT's own class of that name, which a test holds to the real package.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from fake_gpu import FakeGpu

from ingot.backends.tensorrt import messages
from ingot.file.header import Header, Target
from ingot.file.write import Draft, Part
from ingot.signature import Dim, Signature, Tensor
from ingot.version import __version__

Array = np.ndarray[Any, Any]

DIMS = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "bool": "BOOL", "bfloat16": "BF16"}

OPERATIONS: dict[str, Callable[..., list[Array]]] = {
    "affine": lambda x: [x * np.float32(2) + np.float32(1), x.sum(-1, dtype=np.float32)],
    "wrong": lambda x: [x * np.float32(3), x.sum(-1, dtype=np.float32)],
    "add": lambda a, b: [a + b],
}
"""What a plan can compute; shapes follow from running it."""


class Severity(IntEnum):
    """ILogger's."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    """What a user of TensorRT derives a logger from."""

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class DataType(IntEnum):
    """TensorRT's names of dtypes."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    BF16 = 7
    INT64 = 8


class TensorIOMode(IntEnum):
    """Which side a tensor is on."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(IntEnum):
    """Where TensorRT reads and writes a tensor."""

    DEVICE = 0
    HOST = 1


def plan_bytes(
    operation: str,
    inputs: Mapping[str, tuple[str, Sequence[Sequence[Sequence[int]]]]],
    outputs: Mapping[str, str],
    *,
    host: Sequence[str] = (),
    code: bool = False,
) -> bytes:
    """A plan: an input's name to (dtype, [(least, tuned for, greatest) shape of each profile]), an output's to a dtype.

    `host` names tensors in the host's memory; `code`: it embeds a shared library.
    """
    said = {"operation": operation, "inputs": inputs, "outputs": outputs, "host": list(host), "code": code}
    return json.dumps(said).encode()


AFFINE = Signature(
    inputs=(Tensor("x", "float32", ("batch", 4)),),
    outputs=(Tensor("y", "float32", ("batch", 4)), Tensor("s", "float32", ("batch",))),
    dims=(Dim("batch"),),
    parameters={"x": {"tensor": 0}},
    result={"dict": {"y": {"tensor": 0}, "s": {"tensor": 1}}},
)
"""y = 2 x + 1, and s = the sum of each row."""

AFFINE_INPUTS = {"x": ("float32", [([1, 4], [2, 4], [8, 4])])}

AFFINE_OUTPUTS = {"y": "float32", "s": "float32"}

AFFINE_PLAN = plan_bytes("affine", AFFINE_INPUTS, AFFINE_OUTPUTS)

NEEDS = {"tensorrt-rtx": ">=1.7", "gpu": "sm_89,sm_120", "cuda": ">=13.0"}
"""Of an engine that a FakeGpu runs."""


class FakeTensorRt(SimpleNamespace):
    """The module. `refuse` is the reason why the next context or run fails; `seen` are the plans given to it."""

    def __init__(self, gpu: FakeGpu, name: str = "tensorrt_rtx") -> None:
        super().__init__(
            __name__=name,
            ILogger=ILogger,
            DataType=DataType,
            TensorIOMode=TensorIOMode,
            TensorLocation=TensorLocation,
            Runtime=lambda logger: Runtime(self, logger),
        )
        self.gpu = gpu
        self.seen: list[bytes] = []
        self.contexts: list[IExecutionContext] = []
        self.refuse: dict[str, str] = {}
        self.context_bytes = 0


class Runtime:
    """Takes plans."""

    def __init__(self, trt: FakeTensorRt, logger: ILogger) -> None:
        self._trt = trt
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._trt.seen.append(serialized_engine)
        try:
            plan = json.loads(serialized_engine)
        except ValueError:
            return self._refuse(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)"
            )
        if reason := self._trt.refuse.get("deserialize"):
            return self._refuse(reason)
        if plan["code"] and not self.engine_host_code_allowed:
            return self._refuse("the plan embeds host code, and engineHostCodeAllowed is false")
        return ICudaEngine(self._trt, self._logger, plan)

    def get_engine_validity(self, buffer: bytes) -> tuple[int, int]:
        return 2, 2 if "deserialize" in self._trt.refuse else 0

    def _refuse(self, reason: str) -> ICudaEngine | None:
        self._logger.log(Severity.ERROR, reason)
        return None


class ICudaEngine:
    """A plan that was taken."""

    def __init__(self, trt: FakeTensorRt, logger: ILogger, plan: dict[str, Any]) -> None:
        self._trt, self._logger, self._plan = trt, logger, plan
        self.num_io_tensors = len(plan["inputs"]) + len(plan["outputs"])
        self.num_optimization_profiles = len(next(iter(plan["inputs"].values()))[1])

    def get_tensor_name(self, index: int) -> str:
        return str([*self._plan["inputs"], *self._plan["outputs"]][index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        inputs = self._plan["inputs"]
        return DataType[DIMS[inputs[name][0] if name in inputs else self._plan["outputs"][name]]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self._plan["host"] else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        found: list[list[int]] = self._plan["inputs"][name][1][profile_index]
        return found

    def create_execution_context(self) -> IExecutionContext | None:
        if reason := self._trt.refuse.pop("context", None):
            self._logger.log(Severity.ERROR, reason)
            return None
        context = IExecutionContext(self._trt, self._logger, self._plan)
        self._trt.contexts.append(context)
        return context


class IExecutionContext:
    """Runs a plan; `_busy` are the runs of it that a stream has not done yet."""

    def __init__(self, trt: FakeTensorRt, logger: ILogger, plan: dict[str, Any]) -> None:
        self._trt, self._logger, self._plan = trt, logger, plan
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._profile = 0
        self._shared = {"value": 0}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._plan["inputs"][name][1][self._profile]
        fits = len(shape) == len(low) and all(a <= s <= b for s, a, b in zip(shape, low, high, strict=True))
        if not fits:
            self._logger.log(Severity.ERROR, f"{name}: {shape} is outside of the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._plan["host"]:
            assert memory % 256 == 0, "TensorRT asks for 256 bytes of alignment"
        self._addresses[name] = memory
        return memory != 0

    def infer_shapes(self) -> list[str]:
        return [name for name in self._plan["inputs"] if name not in self._shapes or name not in self._addresses]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        empty = [np.zeros(self._shapes[key], _numpy(said[0])) for key, said in self._plan["inputs"].items()]
        results = OPERATIONS[self._plan["operation"]](*empty)
        return tuple(results[list(self._plan["outputs"]).index(name)].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if reason := self._trt.refuse.pop("execute", None):
            self._logger.log(Severity.ERROR, reason)
            return False
        assert self._trt.gpu.current, "TensorRT finds the GPU by the current context"
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        host = [self._read(name, shapes, addresses) if name in self._plan["host"] else None for name in shapes]
        self._shared["value"] += 1
        turn = self._shared["value"]

        def work() -> None:
            # The context's own memory: a run that starts before the one ahead of it has ended spoils both.
            assert turn == self._shared.get("done", 0) + 1, "two runs of one context at once"
            self._shared["done"] = turn
            arrays = [
                self._read(name, shapes, addresses) if given is None else given
                for name, given in zip(shapes, host, strict=True)
            ]
            for name, result in zip(self._plan["outputs"], self._compute(arrays), strict=True):
                content = np.ascontiguousarray(result.astype(_numpy(self._plan["outputs"][name]))).tobytes()
                ctypes.memmove(self._place(name, addresses[name], len(content)), content, len(content))

        self._trt.gpu.enqueue(stream_handle, work)
        return True

    def _compute(self, arrays: list[Array]) -> list[Array]:
        return OPERATIONS[self._plan["operation"]](*arrays)

    def _read(self, name: str, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> Array:
        dtype = _numpy(self._plan["inputs"][name][0])
        count = math.prod(shapes[name]) * dtype.itemsize
        content = ctypes.string_at(self._place(name, addresses[name], count), count)
        return np.frombuffer(content, dtype).reshape(shapes[name])

    def _place(self, name: str, address: int, count: int) -> int:
        return address if name in self._plan["host"] else self._trt.gpu.place(address, count)


@contextmanager
def installed(trt: FakeTensorRt) -> Iterator[None]:
    """Meanwhile `import` of its name finds this one."""
    # Not patch.dict: it would take away what is imported meanwhile.
    before = sys.modules.get(trt.__name__)
    sys.modules[trt.__name__] = trt  # type: ignore[assignment]
    try:
        with patch.dict(messages.loggers, clear=True):
            yield
    finally:
        del sys.modules[trt.__name__]
        if before is not None:
            sys.modules[trt.__name__] = before


def write_engine(
    path: Path,
    signature: Signature,
    plans: Sequence[tuple[Target, bytes]],
    *,
    others: Sequence[tuple[Target, Mapping[str, bytes]]] = (),
    selftest: Mapping[str, Array] | None = None,
) -> Path:
    """An engine file: each GPU target's plan is its member "plan", under the target's name; `others` are more targets,
    each with its members' bytes by name. The file's targets stand in this order: others, then plans.
    """
    parts = [Part.of(name, content) for _, members in others for name, content in members.items()]
    parts += [Part.of(f"{target.name}/plan.bin", plan) for target, plan in plans]
    if selftest is not None:
        parts.append(Part.of("selftest.npz", vectors(selftest)))
    targets = [target._replace(members={"plan": f"{target.name}/plan.bin"}) for target, _ in plans]
    header = Header(
        name=path.stem,
        signature=signature,
        targets=(*(target for target, _ in others), *targets),
        verification="full",
        numerics="fast",
        versions={"ingot": __version__},
        selftest=None if selftest is None else "selftest.npz",
    )
    with Draft(path.parent, path.name, header, parts) as draft:
        draft.finish({})
        draft.publish(path)
    return path


def vectors(arrays: Mapping[str, Array]) -> bytes:
    """Self-test vectors, by "case/in/NAME" and "case/out/NAME"."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, (1, 0))
            archive.writestr(f"{name}.npy", content.getvalue())
    return stream.getvalue()


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)
