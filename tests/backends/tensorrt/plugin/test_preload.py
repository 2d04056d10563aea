"""The library that wheels do not ship is found by its name, and it is the one already loaded."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.backends.tensorrt.plugin.preload import shim

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is built for x86-64 and aarch64 Linux")

PARSE = """
import sys
import numpy as np, onnx, tensorrt_rtx as trt
from onnx.parser import parse_model
from ingot.backends.tensorrt.plugin import host as plugin_host
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.plugin.preload import preload
if sys.argv[1] == "preload":
    preload(FLAVOURS["tensorrt-rtx"])
host = plugin_host.register(trt, [{"name": "skip_norm", "version": 1, "kernels": []}])
model = parse_model('''<ir_version: 10, opset_import: ["": 22, "ingot": 1]>
    g (float[2, 3, 4] x, float[4] w) => (float[2, 3, 4] y) {
    y, s = ingot.skip_norm <inputs: string = "x,residual,weight"> (x, x, w) }''')
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
print("parsed", trt.OnnxParser(network, logger).parse(model.SerializeToString()), flush=True)
"""

SAME = """
import ctypes, os, tensorrt_rtx
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.backends.tensorrt.plugin.preload import preload
descriptors = len(os.listdir("/proc/self/fd"))
for _ in range(2):
    preload(FLAVOURS["tensorrt-rtx"])
preload(FLAVOURS["tensorrt"])
versionless, real = ctypes.CDLL("libtensorrt_rtx.so"), ctypes.CDLL("libtensorrt_rtx.so.1")
address = lambda library: ctypes.cast(library.getInferLibVersion, ctypes.c_void_p).value
mapped = {line.split()[-1] for line in open("/proc/self/maps") if "libtensorrt_rtx.so.1" in line}
print(address(versionless) == address(real), len(mapped), len(os.listdir("/proc/self/fd")) - descriptors)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_plugin_is_parsed_where_without_it_the_process_aborts() -> None:
    cured = python(PARSE, "preload")
    assert cured.stdout.strip() == "parsed True", cured.stderr
    ill = python(PARSE, "nothing")
    assert ill.returncode == -signal.SIGABRT
    assert "parsed" not in ill.stdout


def test_it_is_the_library_already_loaded_and_nothing_stays_open() -> None:
    done = python(SAME)
    assert done.stdout.split() == ["True", "1", "0"], done.stderr


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils' readelf is not installed")
def test_other_tools_read_the_shim(tmp_path: Path) -> None:
    path = tmp_path / "shim"
    path.write_bytes(shim("libone.so", "libother.so.2", 62))
    done = subprocess.run(["readelf", "--all", "--wide", str(path)], capture_output=True, text=True)
    assert "Library soname: [libone.so]" in done.stdout
    assert "Shared library: [libother.so.2]" in done.stdout
    (stack,) = [line for line in done.stdout.splitlines() if "GNU_STACK" in line]
    assert "RWE" not in stack
    assert done.stderr == ""


def test_a_library_that_is_missing_is_an_os_error() -> None:
    code = """
from ingot.backends.tensorrt.plugin import preload
try:
    preload._load("libone.so", "libmissing-everywhere.so.3")
except OSError as error:
    print(error)
"""
    assert "libmissing-everywhere.so.3" in python(code).stdout
