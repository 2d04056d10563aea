"""The CUDA driver's status codes in words: what each means here, and what to type."""

from __future__ import annotations

from typing import NamedTuple

from ingot.errors import EngineError, RequirementError


class CudaError(EngineError):
    """A call of the CUDA driver that failed."""


class OutOfDeviceMemory(CudaError):
    """The GPU has not the memory that was asked for. Nothing is broken: what fits goes on working."""


class _Meaning(NamedTuple):
    name: str
    words: str
    fix: str
    machine: bool = False
    """Whether it is this machine that lacks something, rather than the call."""


_RESTART = (
    "end the process and start again: what ran on the GPU before may be at fault, and CUDA_LAUNCH_BLOCKING=1 shows it"
)
_UPDATE = "install an NVIDIA driver that is new enough, or run a file compiled for this one"
_SPAWN = (
    "load the engine in the child, in a process that asked nothing of the GPU before it forked: "
    "multiprocessing.get_context('spawn')"
)

_MEANINGS = {
    1: _Meaning("INVALID_VALUE", "an argument that the driver does not take", "a pointer that is still allocated"),
    2: _Meaning(
        "OUT_OF_MEMORY", "the GPU is out of memory", "a smaller batch, fewer threads, or nvidia-smi: who has it"
    ),
    3: _Meaning("NOT_INITIALIZED", "CUDA is not started in this process, or was before it was forked", _SPAWN),
    4: _Meaning("DEINITIALIZED", "the driver is shutting down", "close engines before the interpreter ends"),
    34: _Meaning("STUB_LIBRARY", "libcuda.so.1 is a stub for building, not the driver", _UPDATE, True),
    46: _Meaning("DEVICE_UNAVAILABLE", "another process has the GPU for itself", "nvidia-smi: who has it", True),
    100: _Meaning("NO_DEVICE", "there is no GPU that this process may use", "look at CUDA_VISIBLE_DEVICES", True),
    101: _Meaning("INVALID_DEVICE", "there is no GPU of this number", "look at CUDA_VISIBLE_DEVICES", True),
    200: _Meaning("INVALID_IMAGE", "machine code that is none", "copy the file again, or compile the model again"),
    201: _Meaning("INVALID_CONTEXT", "a context that is gone", _RESTART),
    209: _Meaning(
        "NO_BINARY_FOR_GPU",
        "machine code for other GPUs than this one",
        "ingot compile MODEL --arch with this GPU's",
        True,
    ),
    214: _Meaning(
        "ECC_UNCORRECTABLE", "the GPU's memory is damaged", "nvidia-smi -q: its ECC errors; another GPU", True
    ),
    218: _Meaning("INVALID_PTX", "kernels that this driver cannot compile", _UPDATE, True),
    222: _Meaning("UNSUPPORTED_PTX_VERSION", "kernels for a newer driver than this one", _UPDATE, True),
    400: _Meaning("INVALID_HANDLE", "a stream, event or module that is gone", "a stream that is alive"),
    500: _Meaning("NOT_FOUND", "a kernel that the machine code does not hold", "compile the model again"),
    700: _Meaning("ILLEGAL_ADDRESS", "a kernel touched memory that is not its own", _RESTART),
    701: _Meaning("LAUNCH_OUT_OF_RESOURCES", "a kernel that needs more registers than there are", "another GPU"),
    702: _Meaning("LAUNCH_TIMEOUT", "a kernel ran longer than the display lets it", "a GPU without a display", True),
    716: _Meaning("MISALIGNED_ADDRESS", "a kernel met an address that is not aligned", _RESTART),
    719: _Meaning("LAUNCH_FAILED", "a kernel broke off", _RESTART),
    801: _Meaning("NOT_SUPPORTED", "something that this GPU or driver does not do", _UPDATE, True),
    802: _Meaning("SYSTEM_NOT_READY", "the GPUs are not set up", "start nvidia-fabricmanager, then again", True),
    803: _Meaning(
        "SYSTEM_DRIVER_MISMATCH", "the driver's library and its kernel module differ", "restart this machine", True
    ),
    804: _Meaning(
        "COMPAT_NOT_SUPPORTED_ON_DEVICE", "compatibility libraries that this GPU does not take", _UPDATE, True
    ),
    999: _Meaning("UNKNOWN", "the driver does not say what", "nvidia-smi, and the system's log", True),
}

OUT_OF_MEMORY = 2


def words(status: int) -> str:
    """ "CUDA_ERROR_NO_DEVICE (100): there is no GPU that this process may use"."""
    meaning = _MEANINGS.get(status)
    return f"CUDA error {status}" if meaning is None else f"CUDA_ERROR_{meaning.name} ({status}): {meaning.words}"


def fix_of(status: int) -> str:
    meaning = _MEANINGS.get(status)
    return "nvidia-smi, and the system's log" if meaning is None else meaning.fix


def error_of(status: int, doing: str) -> EngineError:
    """What to raise where the driver gave `status` while `doing` ("copying 12 bytes to the GPU")."""
    what = f"{doing} failed: {words(status)}"
    meaning = _MEANINGS.get(status)
    if meaning is not None and meaning.machine:
        return RequirementError(what, fix=meaning.fix)
    return (OutOfDeviceMemory if status == OUT_OF_MEMORY else CudaError)(what, fix=fix_of(status))
