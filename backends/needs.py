"""What a target's `needs` mean, and whether this machine has it: from folder names, /proc and the driver alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ingot.errors import FormatError, RequirementError
from ingot.file.header import Target
from ingot.installed import check_range, in_range, installed_version
from ingot.machine import Machine, Unmet, this_machine

if TYPE_CHECKING:
    from ingot.cuda_driver import Driver

ONE_RUNTIME = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'ingot-compiler[{extra}]'"

_LONGEST_CHARACTERS = 200
"""Of a need: what a stranger's file asks for is shown, and typed by people."""


def unmet(target: Target, machine: Machine) -> list[Unmet]:
    """The needs of `target` that `machine` does not meet, in their order; a need of a newer Ingot is one of them.

    Raises FormatError for needs that are of no form.
    """
    found: list[Unmet] = []
    for need, wanted in target.needs.items():
        if need == "code":
            continue
        if len(need) + len(wanted) > _LONGEST_CHARACTERS:
            raise FormatError(f"target {target.name} needs '{need:.40} {wanted:.80}…', which is too long for a need")
        if need == "gpu":
            found += _gpu(wanted, target.name)
        elif need in _JUDGES:
            found += _JUDGES[need](wanted, machine)
        else:
            found.append(Unmet(f"{need} {wanted}", "an older Ingot", "pip install --upgrade ingot-compiler"))
    return found


def require(target: Target, path: str) -> None:
    """Raises RequirementError for the first need that this machine does not meet; `path` is the engine file's."""
    for lacking in unmet(target, this_machine()):
        raise RequirementError(
            f"target {target.name} needs {lacking.requirement}, found {lacking.found}", where=path, fix=lacking.fix
        )


def fitting_gpu(target: Target) -> int:
    """The number of the first GPU here that the target's need `gpu` takes; 0 where none does.

    Raises FormatError for a need that is no list of architectures.
    """
    wanted = _archs(target.needs.get("gpu", ""))
    return next((gpu.number for gpu in _driver().gpus if not wanted or gpu.arch in wanted), 0)


def _driver() -> Driver:
    # A file without GPU targets does not pay for it.
    from ingot.cuda_driver import this_driver

    return this_driver()


def _arch(wanted: str, machine: Machine) -> list[Unmet]:
    if machine.arch in wanted.split(","):
        return []
    return [Unmet(f"a processor of {wanted}", machine.arch, f"compile on {wanted}")]


def _features(wanted: str, machine: Machine) -> list[Unmet]:
    lacking = [feature for feature in wanted.split(",") if feature not in machine.features]
    if not lacking:
        return []
    what = f"the processor features {', '.join(lacking)}"
    return [Unmet(what, f"{machine.arch} without", "another machine, or compile on this one")]


def _onnxruntime(wanted: str, machine: Machine) -> list[Unmet]:
    """Either distribution runs a graph on the processor; both at once overwrite each other's files."""
    cpu, gpu = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu and gpu:
        fix = ONE_RUNTIME.format(extra="cpu")
        return [Unmet("one onnxruntime", f"onnxruntime {cpu} and onnxruntime-gpu {gpu} in one place", fix)]
    version = cpu or gpu
    if version is None:
        return [Unmet(f"onnxruntime {wanted}".strip(), "none", "pip install 'ingot-compiler[cpu]'")]
    if wanted and not in_range(version, wanted):
        which = "onnxruntime" if cpu else "onnxruntime-gpu"
        return [Unmet(f"onnxruntime {wanted}", version, f"pip install '{which}{wanted}'")]
    return []


def _onnxruntime_gpu(wanted: str, machine: Machine) -> list[Unmet]:
    cpu, gpu = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu:
        found = f"onnxruntime {cpu}" + (f" and onnxruntime-gpu {gpu} in one place" if gpu else "")
        return [Unmet(f"onnxruntime-gpu {wanted} alone", found, ONE_RUNTIME.format(extra="cuda"))]
    return _package("onnxruntime-gpu", "cuda")(wanted, machine)


def _package(distribution: str, extra: str) -> Callable[[str, Machine], list[Unmet]]:
    def judge(wanted: str, machine: Machine) -> list[Unmet]:
        version = installed_version(distribution)
        if wanted:
            # Without the package too: the range is what people are told to type.
            check_range(wanted)
        if version is not None and (not wanted or in_range(version, wanted)):
            return []
        # The extra brings a version of its own choice, which a need for one version would not be met by.
        by_extra = version is None and not wanted.startswith("==")
        fix = f"pip install 'ingot-compiler[{extra}]'" if by_extra else f"pip install '{distribution}{wanted}'"
        if version is not None:
            fix += f", or compile the model again beside {distribution} {version}"
        return [Unmet(f"{distribution} {wanted}".strip(), version or "none", fix)]

    return judge


def _gpu(wanted: str, target: str) -> list[Unmet]:
    """`wanted` lists architectures, any of which will do; empty: any GPU."""
    archs, driver = _archs(wanted), _driver()
    what = f"a GPU of {wanted}" if wanted else "a GPU"
    if not driver.gpus:
        where = "nvidia-smi, which says more; or a machine" if driver.cuda else "a machine"
        found = driver.problem or "no GPU"
        fix = f"{where} with one, or a file with a cpu target too: ingot compile MODEL --target cpu,{target}"
        return [Unmet(what, found, fix)]
    if not archs or any(gpu.arch in archs for gpu in driver.gpus):
        return []
    names = ", ".join(f"{gpu.name} ({gpu.arch})" for gpu in driver.gpus)
    return [Unmet(what, names, _rebuilt(target, archs, list(dict.fromkeys(gpu.arch for gpu in driver.gpus))))]


def _archs(wanted: str) -> list[str]:
    """Raises FormatError for what is no list of architectures: people are told to type it."""
    archs = wanted.split(",") if wanted else []
    for arch in archs:
        number = arch.removeprefix("sm_")
        if number == arch or not (number.isascii() and number.isdigit()):
            raise FormatError(f"'{wanted:.60}' is not a list of GPU architectures like 'sm_89,sm_120'")
    return archs


def _rebuilt(target: str, archs: Sequence[str], here: Sequence[str]) -> str:
    """What to type so that the file runs on the architectures that are here too."""
    # Only who lacks something pays for it.
    from ingot.backends.tensorrt.flavours import FLAVOURS

    flavour = FLAVOURS.get(target)
    built = () if flavour is None else flavour.archs
    more = [arch for arch in here if arch in built]
    if flavour is None or not more:
        why = f"; {target} builds for {', '.join(built)}" if built else ""
        return f"ingot compile MODEL --target cuda, which takes any GPU{why}"
    if not flavour.builds_without_gpu:
        return f"ingot compile MODEL --target {target} on this machine, or --target cuda, which takes any GPU"
    every = ",".join([*(arch for arch in archs if arch in built), *more])
    return f"ingot compile MODEL --target {target} --arch {every}, or --target cuda, which takes any GPU"


def _cuda(wanted: str, machine: Machine) -> list[Unmet]:
    check_range(wanted)
    driver = _driver()
    if driver.cuda is None or in_range(driver.cuda, wanted):
        # Without a driver, the need "gpu" says so.
        return []
    fix = "a newer NVIDIA driver; nvidia-smi shows the CUDA that this one is for"
    return [Unmet(f"a driver for CUDA {wanted}", f"one for CUDA {driver.cuda}", fix)]


_JUDGES: Mapping[str, Callable[[str, Machine], list[Unmet]]] = {
    "arch": _arch,
    "features": _features,
    "onnxruntime": _onnxruntime,
    "onnxruntime-gpu": _onnxruntime_gpu,
    "tensorrt": _package("tensorrt", "tensorrt"),
    "tensorrt-rtx": _package("tensorrt-rtx", "tensorrt-rtx"),
    "cuda": _cuda,
}
