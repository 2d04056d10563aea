"""Eight models that end, hang or starve TensorRT's parser and builder: each one clear error, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.backends.tensorrt.build import CHILD
from ingot.backends.tensorrt.child import process
from ingot.backends.tensorrt.child.parse import GRAPH, OUTPUT, SPEC, WEIGHTS
from ingot.backends.tensorrt.child.process import Limits, Outcome, run
from ingot.backends.tensorrt.failure import failure
from ingot.backends.tensorrt.flavours import FLAVOURS
from ingot.errors import BuildError, UsageError

pytest.importorskip("tensorrt_rtx", reason="real parsers fail here, not fakes")

RTX = FLAVOURS["tensorrt-rtx"]

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)

LIMIT_SECONDS = 30.0
LIMIT_BYTES = 1_500_000_000


def model(
    nodes: Sequence[onnx.NodeProto],
    *inits: onnx.TensorProto,
    x: onnx.ValueInfoProto = X,
    y: onnx.ValueInfoProto = Y,
    functions: Sequence[onnx.FunctionProto] = (),
    domain: str = "own",
) -> onnx.ModelProto:
    for node in nodes:
        node.name = f"{node.op_type}-of-the-model"
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph(list(nodes), "evil", [x], [y], list(inits))
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def function(name: str, *calls: str) -> onnx.FunctionProto:
    """A function of the domain `own` that calls others of it one after the other, or negates."""
    values = ["a", *(f"v{index}" for index in range(len(calls) - 1)), "b"]
    nodes = [
        helper.make_node(call, [values[index]], [values[index + 1]], domain="own") for index, call in enumerate(calls)
    ]
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes or [helper.make_node("Neg", ["a"], ["b"])], imports)


def a_function_that_calls_itself() -> onnx.ModelProto:
    return model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function("F", "F")])


def blocks_of_size_zero() -> onnx.ModelProto:
    return model([helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=0)])


def rotary_of_no_heads() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    return model([helper.make_node("RotaryEmbedding", ["x", "x", "x"], ["y"], num_heads=0)], x=x, y=y)


def fifty_repeats_of_four_axes() -> onnx.ModelProto:
    repeats = numpy_helper.from_array(np.full(50, 2, np.int64), "r")
    return model([helper.make_node("Tile", ["x", "r"], ["y"])], repeats)


def a_bound_without_elements() -> onnx.ModelProto:
    nothing = numpy_helper.from_array(np.zeros(0, np.float32), "low")
    return model([helper.make_node("Clip", ["x", "low"], ["y"])], nothing)


def functions_that_double_28_times() -> onnx.ModelProto:
    doubling = [function("F0"), *(function(f"F{n}", f"F{n - 1}", f"F{n - 1}") for n in range(1, 28))]
    return model([helper.make_node("F27", ["x"], ["y"], domain="own")], functions=doubling)


def an_identity_of_30000_rows() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [30000, 30000])
    return model([helper.make_node("EyeLike", ["x"], ["y"])], x=x)


def a_plugin_of_ours() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    node = helper.make_node("skip_norm", ["x", "x", "w"], ["y", "s"], domain="ingot")
    node.attribute.append(helper.make_attribute("inputs", "x,residual,weight"))
    return model([node], weight, x=x, domain="ingot")


SKIP_NORM = {"name": "skip_norm", "version": 1, "kernels": []}


def stage(built: onnx.ModelProto, folder: Path, plugins: Sequence[Mapping[str, Any]] = ()) -> Path:
    """As the parent would: but nothing is refused, for here the child is on trial."""
    folder.mkdir()
    (folder / GRAPH).write_bytes(built.SerializeToString())
    (folder / WEIGHTS).write_bytes(b"")
    spec = {
        "flavour": RTX.name,
        "archs": ["sm_89"],
        "initializers": [],
        "profile": {},
        "domains": {},
        "declared": None,
        "plugins": list(plugins),
        "libraries": [],
        "where": where(built),
    }
    (folder / SPEC).write_text(json.dumps(spec))
    return folder


def where(built: onnx.ModelProto) -> dict[str, str]:
    return {node.name: f"{node.op_type} (net.py:{index})" for index, node in enumerate(built.graph.node)}


def fail(
    built: onnx.ModelProto,
    folder: Path,
    *,
    module: str = CHILD,
    seconds: float = LIMIT_SECONDS,
    plugins: Sequence[Mapping[str, Any]] = (),
) -> BuildError:
    staged = stage(built, folder, plugins)
    outcome = run(module, [str(staged)], output=staged / OUTPUT, limits=Limits(seconds, LIMIT_BYTES))
    assert outcome.code != 0
    assert outcome.seconds < seconds + 3
    return failure(RTX, outcome, staged, where(built))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_function_that_calls_itself, "touched memory that is not its own (SIGSEGV)"),
        (fifty_repeats_of_four_axes, "touched memory that is not its own (SIGSEGV)"),
        (a_bound_without_elements, "touched memory that is not its own (SIGSEGV)"),
        (blocks_of_size_zero, "divided by zero (SIGFPE)"),
        (rotary_of_no_heads, "divided by zero (SIGFPE)"),
    ],
)
def test_a_parser_that_dies_is_an_error(make: Callable[[], onnx.ModelProto], said: str, tmp_path: Path) -> None:
    error = fail(make(), tmp_path / "build")
    assert said in error.what
    assert "this process is unharmed" in error.what
    assert error.fix is not None


def test_a_parser_that_hangs_is_stopped(tmp_path: Path) -> None:
    error = fail(functions_that_double_28_times(), tmp_path / "build", seconds=3.0)
    assert "did not finish in 3 s and was stopped" in error.what
    assert process.TIMEOUT_S in str(error.fix)


def test_a_builder_that_eats_the_memory_is_stopped_before_the_machine_is_out_of_it(tmp_path: Path) -> None:
    error = fail(an_identity_of_30000_rows(), tmp_path / "build")
    assert "GB of memory; it may have 1.5 GB here" in error.what
    assert process.MEMORY_GB in str(error.fix)


def test_the_parser_aborts_at_a_plugin_when_it_does_not_find_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort that `preload` cures, not cured."""
    (tmp_path / "uncured.py").write_text(
        "import sys\nfrom ingot.backends.tensorrt.child import build as child, parse\n"
        "parse.preload = lambda flavour: None\n"
        "sys.exit(child.main(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    error = fail(a_plugin_of_ours(), tmp_path / "build", module="uncured", plugins=[SKIP_NORM])
    assert "aborted itself (SIGABRT)" in error.what
    cured = fail(a_plugin_of_ours(), tmp_path / "cured")
    assert "Plugin not found" in cured.what
    assert cured.where == "skip_norm (net.py:0)"


def test_what_the_parser_refuses_names_the_node_and_the_users_line(tmp_path: Path) -> None:
    axis = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    error = fail(model([helper.make_node("Gather", ["x", "i"], ["y"], axis=99)], axis), tmp_path / "build")
    assert "Gather Gather-of-the-model: Assertion failed" in error.what
    assert "Provided axis is: 99" in error.what
    assert error.where == "Gather (net.py:0)"


def test_what_is_no_model_at_all_is_an_error(tmp_path: Path) -> None:
    staged = stage(model([helper.make_node("Neg", ["x"], ["y"])]), tmp_path / "build")
    (staged / GRAPH).write_bytes(b"\xff" * 1000)
    outcome = run(CHILD, [str(staged)], output=staged / OUTPUT, limits=Limits(LIMIT_SECONDS))
    assert outcome.code == 1
    assert "refuses the graph" in failure(RTX, outcome, staged, {}).what


def test_a_disk_that_fills_up_under_the_plan_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for the disk: the plan is larger, the log and the result are not."""
    (tmp_path / "narrow.py").write_text(
        "import resource, signal, sys\nfrom ingot.backends.tensorrt.child import build as child\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "sys.exit(child.main(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / ".ingot-build-1").mkdir()
    error = fail(model([helper.make_node("Neg", ["x"], ["y"])]), tmp_path / ".ingot-build-1" / "build", module="narrow")
    assert "there is no room for tensorrt-rtx's plan" in error.what
    assert error.where == str(tmp_path)
    assert "free space" in str(error.fix)
    assert not list((tmp_path / ".ingot-build-1").rglob("plan.bin*"))


def test_every_signal_is_put_into_words(tmp_path: Path) -> None:
    killed = failure(RTX, Outcome(-signal.SIGKILL, None, 1.0, 10**9, 2 * 10**9), tmp_path, {})
    assert "killed by the system" in killed.what
    assert process.MEMORY_GB in str(killed.fix)
    assert "died of signal 40" in failure(RTX, Outcome(-40, None, 1.0, 0, 0), tmp_path, {}).what
    assert "exit code 3" in failure(RTX, Outcome(3, None, 1.0, 0, 0), tmp_path, {}).what


@pytest.mark.parametrize("name", [process.TIMEOUT_S, process.MEMORY_GB])
@pytest.mark.parametrize("value", ["", "0", "-1", "much", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        Limits.from_environment()


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.TIMEOUT_S, "7.5")
    monkeypatch.setenv(process.MEMORY_GB, "2")
    assert Limits.from_environment() == Limits(7.5, 2_000_000_000)
    assert 0 < process.available_bytes() < 1 << 50


SLEEPER = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)\n"


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module whose child says its number and sleeps, after what every build's child does first."""
    prologue = "from ingot.backends.tensorrt.child.process import die_with_parent\ndie_with_parent()\n"
    (tmp_path / "sleeper.py").write_text(prologue + SLEEPER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return "sleeper"


def wait_for(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.02)
    return False


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_child_does_not_outlive_who_asked(how: signal.Signals, sleeper: str, tmp_path: Path) -> None:
    """Ctrl-C, and a parent that is killed and cannot clean up."""
    said = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path; from ingot.backends.tensorrt.child.process import Limits, run\n"
        "run('sleeper', [sys.argv[1]], output=Path(sys.argv[2]), limits=Limits(50))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(said), str(tmp_path / "out")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert wait_for(lambda: said.exists() and said.read_text().isdigit())
        pid = int(said.read_text())
        parent.send_signal(how)
        parent.wait(20)
        assert wait_for(lambda: gone(pid))
    finally:
        parent.kill()
        parent.wait()
