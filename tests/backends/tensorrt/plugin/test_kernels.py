"""Kernels of an engine file: which one runs on a GPU, what is refused, and what the driver is given."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from typing import Any

import pytest
from fake_device import FakeDevice

from ingot.backends.tensorrt.plugin.kernels import Kernel, Kernels, read_kernels, runs_on
from ingot.errors import EngineError
from ingot.plugins.declaration import DoesNotFit

KEY = "rms-f16-h64"
BYTES = {f"plugins/skip_norm/{arch}/{KEY}.cubin": arch.encode() for arch in ("sm_80", "sm_86", "sm_120")}


def kernel(arch: str, **changed: Any) -> Kernel:
    member = f"plugins/skip_norm/{arch}/{KEY}.cubin"
    made = {"sha256": hashlib.sha256(arch.encode()).hexdigest(), "symbol": "skip_norm", "warps": 4, "shared_bytes": 16}
    return Kernel(KEY, arch, member, **{**made, **changed})


@pytest.mark.parametrize(
    ("arch", "gpu", "runs"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_89", True),
        ("sm_89", "sm_80", False),
        ("sm_89", "sm_90", False),
        ("sm_100", "sm_103", True),
        ("sm_100", "sm_120", False),
        ("sm_120", "sm_121", True),
        ("sm_1", "sm_1", False),
    ],
)
def test_a_cubin_runs_on_later_minor_versions_of_its_major_one(arch: str, gpu: str, runs: bool) -> None:
    assert runs_on(arch, gpu) is runs


@pytest.mark.parametrize(("gpu", "image"), [("sm_80", b"sm_80"), ("sm_89", b"sm_86"), ("sm_121", b"sm_120")])
def test_the_closest_kernel_is_loaded_once_and_launched(gpu: str, image: bytes) -> None:
    device = FakeDevice(gpu)
    kernels = Kernels([kernel(arch) for arch in ("sm_80", "sm_86", "sm_120")], BYTES.__getitem__, device)
    for _ in range(2):
        kernels.launch(KEY, 6, [4096, 0], [1e-5], 77)
    assert device.images == [image]
    launch = device.launches[0]
    assert launch["function"] == 201
    assert (launch["grid"], launch["block"]) == ((6, 1, 1), (128, 1, 1))
    assert (launch["shared_bytes"], launch["stream"]) == (16, 77)
    assert launch["arguments"] == [
        (ctypes.c_void_p, 4096),
        (ctypes.c_void_p, None),
        (ctypes.c_float, pytest.approx(1e-5)),
        (ctypes.c_void_p, None),
        (ctypes.c_void_p, None),
    ]


def test_many_threads_load_a_kernel_once() -> None:
    device = FakeDevice("sm_80")
    kernels = Kernels([kernel("sm_80")], BYTES.__getitem__, device)
    threads = [threading.Thread(target=kernels.launch, args=(KEY, 1, [0], [1.0], 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(device.images), len(device.launches)) == (1, 8)


def test_what_was_loaded_leaves_the_gpu_with_its_engine() -> None:
    device = FakeDevice("sm_80")
    kernels = Kernels([kernel("sm_80")], BYTES.__getitem__, device)
    kernels.launch(KEY, 1, [0], [1.0], 0)
    assert device.unloaded == []
    del kernels
    assert device.unloaded == [101]


def test_no_rows_are_no_launch() -> None:
    device = FakeDevice("sm_80")
    Kernels([kernel("sm_80")], BYTES.__getitem__, device).launch(KEY, 0, [0], [1.0], 0)
    assert device.launches == []


def test_more_rows_than_a_grid_takes_are_refused() -> None:
    with pytest.raises(EngineError, match="2147483648 programs"):
        Kernels([kernel("sm_80")], BYTES.__getitem__, FakeDevice("sm_80")).launch(KEY, 2**31, [0], [1.0], 0)


def test_a_gpu_without_a_kernel_shows_at_once() -> None:
    with pytest.raises(DoesNotFit, match=f"the kernel {KEY} for sm_80, sm_86, not for sm_90"):
        Kernels([kernel("sm_80"), kernel("sm_86")], BYTES.__getitem__, FakeDevice("sm_90"))


def test_another_kernel_than_the_header_describes_is_not_loaded() -> None:
    device = FakeDevice("sm_80")
    kernels = Kernels([kernel("sm_80", sha256="0" * 64)], BYTES.__getitem__, device)
    with pytest.raises(EngineError, match="is not the kernel that the header describes"):
        kernels.launch(KEY, 1, [0], [1.0], 0)
    assert device.images == []


def test_where_engines_are_built_nothing_is_launched() -> None:
    with pytest.raises(EngineError, match="no GPU was opened"):
        Kernels([kernel("sm_80")]).launch(KEY, 1, [0], [1.0], 0)
    with pytest.raises(EngineError, match="no engine file"):
        Kernels([kernel("sm_80")], None, FakeDevice("sm_80")).launch(KEY, 1, [0], [1.0], 0)


def test_a_key_that_is_not_there_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="no kernel rms-f16-h65; it has rms-f16-h64"):
        Kernels([kernel("sm_80")]).check("rms-f16-h65")


def test_the_digest_is_of_all_that_describes_the_kernels() -> None:
    digests = {
        Kernels([kernel("sm_80")]).digest,
        Kernels([kernel("sm_80", warps=8)]).digest,
        Kernels([kernel("sm_80", sha256="0" * 64)]).digest,
        Kernels([kernel("sm_80"), kernel("sm_86")]).digest,
        Kernels([]).digest,
    }
    assert len(digests) == 5
    assert Kernels([kernel("sm_80")]).digest in digests


def test_kernels_are_read_back_as_written() -> None:
    kernels = [kernel("sm_80"), kernel("sm_120")]
    assert read_kernels({"kernels": [each.to_json() for each in kernels]}) == kernels


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"arch": "sm_x"}, "a kernel is for 'sm_x'"),
        ({"sha256": "ff"}, "has the digest 'ff'"),
        ({"warps": 0}, "asks for 0 warps"),
        ({"warps": 33}, "asks for 33 warps"),
        ({"warps": True}, "is described by"),
        ({"shared_bytes": 1 << 20}, "1048576 bytes of shared memory"),
        ({"member": None}, "is described by"),
        ({"symbol": "a\0b"}, "is called 'a\\x00b', which is no name"),
        ({"key": ""}, "is called '', which is no name"),
        ({"more": 1}, "is described by"),
    ],
)
def test_a_kernel_that_is_wrongly_described_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(DoesNotFit) as error:
        read_kernels({"kernels": [{**kernel("sm_80").to_json(), **change}]})
    assert text in str(error.value)


@pytest.mark.parametrize("entry", [{}, {"kernels": {}}, {"kernels": [[]]}, {"kernels": [{}] * 5000}])
def test_an_entry_without_a_list_of_kernels_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(DoesNotFit):
        read_kernels(entry)
