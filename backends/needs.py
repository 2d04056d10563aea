"""What a target's `needs` mean, and whether this machine has it: from folder names, /proc and the driver alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ingot.cuda_driver import this_driver
from ingot.file.header import Target
from ingot.installed import in_range, installed_version
from ingot.machine import Machine, Unmet

ONE_RUNTIME = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'ingot-compiler[{extra}]'"


def unmet(target: Target, machine: Machine) -> list[Unmet]:
    """The needs of `target` that `machine` does not meet, in their order; a need of a newer Ingot is one of them."""
    found: list[Unmet] = []
    for need, wanted in target.needs.items():
        if need in _JUDGES:
            found += _JUDGES[need](wanted, machine)
        elif need != "code":
            found.append(Unmet(f"{need} {wanted}", "an older Ingot", "pip install --upgrade ingot-compiler"))
    return found


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
        if version is not None and (not wanted or in_range(version, wanted)):
            return []
        # The extra brings a version of its own choice, which a need for one version would not be met by.
        by_extra = version is None and not wanted.startswith("==")
        fix = f"pip install 'ingot-compiler[{extra}]'" if by_extra else f"pip install '{distribution}{wanted}'"
        return [Unmet(f"{distribution} {wanted}".strip(), version or "none", fix)]

    return judge


def _gpu(wanted: str, machine: Machine) -> list[Unmet]:
    """`wanted` lists architectures, any of which will do; empty: any GPU."""
    driver = this_driver()
    what = f"a GPU of {wanted}" if wanted else "a GPU"
    if not driver.gpus:
        return [Unmet(what, driver.problem or "no GPU", "a machine with one, or a file that has a cpu target too")]
    if not wanted or any(gpu.arch in wanted.split(",") for gpu in driver.gpus):
        return []
    have = dict.fromkeys(gpu.arch for gpu in driver.gpus)
    names = ", ".join(f"{gpu.name} ({gpu.arch})" for gpu in driver.gpus)
    fix = f"ingot compile MODEL --arch {','.join([*wanted.split(','), *have])}, or --target cuda, which takes any"
    return [Unmet(what, names, fix)]


def _cuda(wanted: str, machine: Machine) -> list[Unmet]:
    driver = this_driver()
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
    "gpu": _gpu,
    "cuda": _cuda,
}
