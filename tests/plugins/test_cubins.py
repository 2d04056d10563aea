"""Cubins compiled ahead, without a GPU: for every architecture, the same bytes each time, launched as they ask for."""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest
import triton

from ingot.errors import BuildError
from ingot.plugins.cubins import ARCHS, Cubin, compile_cubins
from ingot.plugins.skip_norm.declaration import SKIP_NORM

EM_CUDA = 190

CONSTANT_BANK_BYTES = {
    "sm_75": 352,
    "sm_80": 352,
    "sm_86": 352,
    "sm_89": 352,
    "sm_90": 528,
    "sm_100": 896,
    "sm_120": 896,
}
"""Of the constant bank, what lies before a kernel's arguments."""


def compiled(
    *archs: str, dtype: str = "float16", hidden: int = 1000, kind: str = "rms", **more: Any
) -> dict[str, Cubin]:
    attributes = {"epsilon": 1e-6, "kind": kind}
    return compile_cubins(SKIP_NORM, archs, dtype=dtype, sizes={"H": hidden}, attributes=attributes, **more)


def sections(elf: bytes) -> dict[str, int]:
    """Name and size of every section."""
    offset, count, names = struct.unpack_from("<40xQ12xHH", elf)[0], *struct.unpack_from("<HH", elf, 60)
    table = [struct.unpack_from("<II8x8xQQ", elf, offset + 64 * index) for index in range(count)]
    strings = table[names][2]
    return {elf[strings + name : elf.index(b"\0", strings + name)].decode(): size for name, _, _, size in table}


@pytest.fixture(scope="module")
def cubins() -> dict[str, Cubin]:
    return compiled(*ARCHS)


def test_every_architecture_compiles(cubins: dict[str, Cubin]) -> None:
    assert {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"} <= set(cubins)
    for cubin in cubins.values():
        assert cubin.data[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", cubin.data, 18) == (EM_CUDA,)
        assert f".text.{cubin.symbol}" in sections(cubin.data)
    assert len({cubin.data for cubin in cubins.values()}) == len(cubins)


@pytest.mark.parametrize("arch", CONSTANT_BANK_BYTES)
def test_a_kernel_takes_the_arguments_that_it_is_launched_with(arch: str, cubins: dict[str, Cubin]) -> None:
    """Six pointers, one float32, and two scratch pointers, aligned."""
    found = sections(cubins[arch].data)[f".nv.constant0.{cubins[arch].symbol}"]
    assert found - CONSTANT_BANK_BYTES[arch] == 6 * 8 + 8 + 2 * 8


def test_no_path_of_this_machine_is_in_them(cubins: dict[str, Cubin]) -> None:
    for cubin in cubins.values():
        assert b".py" not in cubin.data
        assert b"/tmp" not in cubin.data


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_repeat(dtype: str) -> None:
    assert compiled("sm_89", dtype=dtype) == compiled("sm_89", dtype=dtype)


def test_what_is_specialised_differs() -> None:
    variants = [
        compiled("sm_89"),
        compiled("sm_89", dtype="bfloat16"),
        compiled("sm_89", hidden=1001),
        compiled("sm_89", kind="layer"),
        compiled("sm_89", given=("bias",)),
    ]
    assert len({variant["sm_89"].data for variant in variants}) == len(variants)


@pytest.mark.parametrize(("hidden", "warps"), [(1, 1), (256, 1), (1000, 4), (4096, 16), (16384, 16)])
def test_wide_rows_get_more_threads(hidden: int, warps: int) -> None:
    cubin = compiled("sm_80", hidden=hidden)["sm_80"]
    assert cubin.warps == warps
    assert cubin.shared_bytes <= 48 * 1024


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(BuildError, match="pip install 'triton"):
        compiled("sm_89")


def test_under_the_interpreter_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(BuildError, match="TRITON_INTERPRET"):
        compiled("sm_89")


def test_an_architecture_that_triton_lacks_is_a_build_error() -> None:
    with pytest.raises(BuildError, match="does not compile skip_norm in float16 for sm_30"):
        compiled("sm_30")
