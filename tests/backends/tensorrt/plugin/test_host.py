"""The plugin's host with TensorRT's own classes: registered, made from a plan's fields, launched on a fake GPU."""

from __future__ import annotations

import ctypes
import hashlib
import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_device import FakeDevice

from ingot.backends.tensorrt.plugin import host as plugin_host
from ingot.backends.tensorrt.plugin.fields import FIELD, Fields
from ingot.backends.tensorrt.plugin.kernels import Kernel, Kernels
from ingot.errors import EngineError
from ingot.plugins.declaration import DoesNotFit
from ingot.plugins.skip_norm.declaration import SKIP_NORM

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is built for x86-64 and aarch64 Linux")

KEY = "layer-bias-f16-h64"
CUBIN = b"machine code"


def kernel(key: str = KEY, **changed: Any) -> Kernel:
    made = {"sha256": hashlib.sha256(CUBIN).hexdigest(), "symbol": "skip_norm", "warps": 2, "shared_bytes": 0}
    return Kernel(key, "sm_89", f"plugins/skip_norm/sm_89/{key}.cubin", **{**made, **changed})


def entry(*kernels: Kernel) -> dict[str, Any]:
    return {"name": "skip_norm", "version": 1, "kernels": [each.to_json() for each in kernels or (kernel(),)]}


def fields(*kernels: Kernel, **changed: Any) -> bytes:
    made: dict[str, Any] = {
        "dtype": "float16",
        "sizes": {"H": 64},
        "optional": ("bias",),
        "attributes": {"epsilon": 1e-5, "kind": "layer"},
        "kernels": Kernels(list(kernels) or [kernel()]).digest,
    }
    return Fields(SKIP_NORM, **{**made, **changed}).to_bytes()


def made_from(data: bytes, name: str = FIELD) -> Any:
    """What TensorRT does when it reads a plan with this field."""
    creator = trt.get_plugin_registry().get_creator("skip_norm", "1", "ingot")
    collection = trt.PluginFieldCollection(
        [trt.PluginField(name, np.frombuffer(data, np.int8), trt.PluginFieldType.CHAR)]
    )
    return creator.create_plugin("layer", collection, trt.TensorRTPhase.RUNTIME)


def described(dims: tuple[int, ...], dtype: Any = None) -> SimpleNamespace:
    return SimpleNamespace(dims=dims, type=dtype or trt.DataType.HALF, format=trt.TensorFormat.LINEAR)


def tensors(size: int = 64, dtype: Any = None, rows: tuple[int, int] = (2, 3)) -> list[SimpleNamespace]:
    return [described((*rows, size), dtype)] * 2 + [described((size,), dtype)] * 2


def enqueue(plugin: Any, inputs: list[SimpleNamespace], pointers: list[int]) -> None:
    plugin.enqueue(inputs, inputs[:2], pointers, [50, 60], 0, 7)


def test_a_plugin_of_a_plan_launches_its_kernel() -> None:
    device = FakeDevice()
    host = plugin_host.register(trt, [entry()], lambda member: CUBIN, device)
    plugin = made_from(fields()).attach_to_context(None)
    plugin.on_shape_change(tensors(), tensors()[:2])
    enqueue(plugin, tensors(), [10, 20, 30, 40])
    pointers = [10, 20, 30, 40, 50, 60]
    (launch,) = device.launches
    assert (launch["grid"], launch["stream"], device.images) == ((6, 1, 1), 7, [CUBIN])
    assert [value for _, value in launch["arguments"]] == [*pointers, ctypes.c_float(1e-5).value, None, None]
    assert host.problem is None


def test_an_absent_optional_input_is_a_null_pointer() -> None:
    device = FakeDevice()
    bare = kernel("rms-f16-h64")
    host = plugin_host.register(trt, [entry(bare)], lambda member: CUBIN, device)
    plugin = made_from(fields(bare, optional=(), attributes={"epsilon": 1e-6, "kind": "rms"}))
    enqueue(plugin, tensors()[:3], [10, 20, 30])
    assert [value for _, value in device.launches[0]["arguments"]][:6] == [10, 20, 30, None, 50, 60]
    assert host.problem is None


def test_no_rows_launch_nothing() -> None:
    device = FakeDevice()
    host = plugin_host.register(trt, [entry()], lambda member: CUBIN, device)
    enqueue(made_from(fields()), tensors(rows=(0, 3)), [1, 2, 3, 4])
    assert (device.launches, host.problem) == ([], None)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (lambda: tensors(size=32), "H is 32 in the tensors and 64 in the plan's fields"),
        (lambda: tensors(dtype=trt.DataType.FLOAT), "x is float32; by the plan's fields it is float16"),
        (lambda: tensors()[:3], "has 3 inputs"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_told(inputs: Any, text: str) -> None:
    host = plugin_host.register(trt, [entry()], lambda member: CUBIN, FakeDevice())
    plugin = made_from(fields())
    with pytest.raises(DoesNotFit):
        plugin.on_shape_change(inputs(), [])
    assert host.problem is not None
    assert text in host.problem


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (lambda: b"\x80\x04N.", "not what Ingot writes"),
        (lambda: fields(kernels="0" * 64), "was built with the kernels 000000000000, the file brings other ones"),
        (lambda: fields(sizes={"H": 32}), f"no kernel layer-bias-f16-h32; it has {KEY}"),
        (lambda: fields().replace(b'"version":1', b'"version":2'), "skip_norm of version 2; this Ingot has version 1"),
        (lambda: fields().replace(b'"kind":"layer"', b'"kind":"batch"'), "kind is 'batch'"),
    ],
)
def test_fields_that_do_not_fit_are_refused_and_told(data: Any, text: str) -> None:
    host = plugin_host.register(trt, [entry()])
    with pytest.raises(DoesNotFit):
        made_from(data())
    assert host.problem is not None
    assert text in host.problem


def test_a_plan_of_something_else_is_refused_and_told() -> None:
    host = plugin_host.register(trt, [entry()])
    with pytest.raises(DoesNotFit):
        made_from(fields(), name="blob")
    assert host.problem == "plugin skip_norm: the plan keeps blob of it, not ingot"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": "rotary", "version": 1, "kernels": []}, "plugin 'rotary', which this Ingot lacks; it has skip_norm"),
        ({"name": ["skip_norm"]}, "which this Ingot lacks"),
        ({**entry(), "version": 2}, "the plugin skip_norm in version 2, this Ingot in version 1"),
        ({"name": "skip_norm", "version": 1}, "a plugin's kernels are a list"),
        (entry(kernel(warps=99)), "asks for 99 warps"),
    ],
)
def test_an_entry_that_this_ingot_does_not_have_is_refused(wrong: Any, text: str) -> None:
    with pytest.raises(EngineError) as error:
        plugin_host.register(trt, [wrong])
    assert text in str(error.value)
    assert "compile the model again" in str(error.value)


def test_kernels_that_the_gpu_does_not_run_are_refused_before_tensorrt_is_asked() -> None:
    with pytest.raises(EngineError, match="for sm_89, not for sm_120"):
        plugin_host.register(trt, [entry()], lambda member: CUBIN, FakeDevice("sm_120"))


def test_each_engine_has_its_own_kernels_and_gpu() -> None:
    first, second = FakeDevice(), FakeDevice()
    other = [kernel(), kernel("rms-f16-h64")]
    hosts = [plugin_host.register(trt, [entry()], lambda member: CUBIN, first)]
    one = made_from(fields())
    hosts.append(plugin_host.register(trt, [entry(*other)], lambda member: CUBIN, second))
    two = made_from(fields(*other))
    for plugin in (one, two, one):
        enqueue(plugin, tensors(), [1, 2, 3, 4])
    assert (len(first.launches), len(second.launches)) == (2, 1)
    assert [host.problem for host in hosts] == [None, None]


def test_two_threads_that_load_the_same_file_for_two_gpus_do_not_mix() -> None:
    devices = [FakeDevice(), FakeDevice()]
    barrier = threading.Barrier(2)
    failed: list[str] = []

    def load(device: FakeDevice) -> None:
        host = plugin_host.register(trt, [entry()], lambda member: CUBIN, device)
        barrier.wait()
        enqueue(made_from(fields()), tensors(), [1, 2, 3, 4])
        failed.extend([host.problem] if host.problem else [])

    threads = [threading.Thread(target=load, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [len(device.launches) for device in devices] == [1, 1]


def test_formats_are_linear_and_of_one_dtype() -> None:
    host = plugin_host.register(trt, [entry()])
    plugin = made_from(fields())

    def supports(position: int, *tensors: SimpleNamespace) -> bool:
        wrapped = [SimpleNamespace(desc=tensor) for tensor in tensors]
        return bool(plugin.supports_format_combination(position, wrapped, 4))

    half, single, ints = described((1,)), described((1,), trt.DataType.FLOAT), described((1,), trt.DataType.INT32)
    packed = SimpleNamespace(dims=(1,), type=trt.DataType.HALF, format=trt.TensorFormat.CHW2)
    assert supports(0, half)
    assert supports(0, single)
    assert supports(1, half, half)
    assert not supports(1, half, single)
    assert not supports(0, ints)
    assert not supports(0, packed)
    assert host.problem is None


def test_what_is_serialised_is_what_was_configured() -> None:
    host = plugin_host.register(trt, [entry()])
    plugin = made_from(fields())
    plugin.fields = None
    with pytest.raises(DoesNotFit, match="not configured"):
        plugin.get_fields_to_serialize()
    plugin.configure_plugin([SimpleNamespace(desc=tensor) for tensor in tensors()], [])
    (field,) = plugin.clone().get_fields_to_serialize()
    assert json.loads(bytes(field.data)) == json.loads(fields())
    assert host.problem == "plugin skip_norm: TensorRT writes a plugin that was not configured"


def test_a_hidden_size_that_is_not_known_at_build_is_refused() -> None:
    host = plugin_host.register(trt, [entry()])
    plugin = made_from(fields())
    plugin.configure_plugin([SimpleNamespace(desc=tensor) for tensor in tensors(size=-1)], [])
    assert host.problem is not None
    assert "H is not known when the engine is built" in host.problem
