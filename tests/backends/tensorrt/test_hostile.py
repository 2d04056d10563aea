"""What a stranger's file may say of a plan: refused in a line, before TensorRT or the GPU hears of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_gpu import FakeGpu
from fake_tensorrt import AFFINE, AFFINE_PLAN, NEEDS, FakeTensorRt, write_engine

from ingot.backends.tensorrt.plugin import host as plugin_host
from ingot.cli.main import ingot
from ingot.errors import EngineError, FormatError
from ingot.file.header import Target
from ingot.runtime.check import check_file
from ingot.runtime.open import open_engine

CUBIN = b"machine code"

KERNEL = {
    "key": "rms-f16-h64",
    "arch": "sm_89",
    "member": "plugins/k.cubin",
    "sha256": hashlib.sha256(CUBIN).hexdigest(),
    "symbol": "skip_norm",
    "warps": 4,
    "shared_bytes": 0,
}

GOOD = [[1, 4], [2, 4], [8, 4]]


def written(folder: Path, options: Any, *, plan: bytes = AFFINE_PLAN, layers: bytes | None = None) -> Path:
    members = {"plugins/k.cubin": CUBIN, **({} if layers is None else {"layers.json": layers})}
    other = Target("cpu", {name: name for name in members}, {"arch": "none"})
    return write_engine(
        folder / "e.ingot", AFFINE, [(Target("tensorrt-rtx", {}, NEEDS, options), plan)], others=[(other, members)]
    )


def plugin(*kernels: Any, **changed: Any) -> dict[str, Any]:
    return {"plugins": [{"name": "skip_norm", "version": 1, "kernels": list(kernels), **changed}]}


def twice(found: dict[str, Any]) -> dict[str, Any]:
    return {"plugins": found["plugins"] * 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"proven": 0}, "proven is 0, and must be true or false"),
        ({"proven": "yes"}, "proven is 'yes'"),
        ({"proven": None}, "proven is None"),
        ({"unread": "x"}, "unread are 'x', and must be a list"),
        ({"unread": [["x"]]}, r"lists \['x'\] as unread"),
        ({"unread": ["z"]}, "lists 'z' as unread, which is no input"),
        ({"profiles": [GOOD]}, "must be an object of inputs"),
        ({"profiles": {"z": GOOD}}, "a profile of 'z', which is no input"),
        ({"profiles": {"x": GOOD[:2]}}, "profile of 'x' is"),
        ({"profiles": {"x": [[1], [2], [8]]}}, "profile of 'x' is"),
        ({"profiles": {"x": [[-1, 4], [2, 4], [8, 4]]}}, "profile of 'x' is"),
        ({"profiles": {"x": [[1, 4], [9, 4], [8, 4]]}}, "profile of 'x' is"),
        ({"profiles": {"x": [[1, 4], [2, 4], [10**300, 4]]}}, "profile of 'x' is"),
        ({"profiles": {"x": [[True, 4], [2, 4], [8, 4]]}}, "profile of 'x' is"),
        ({"profiles": {"x": [1, 2, 3]}}, "profile of 'x' is"),
        ({"plugins": {"skip_norm": 1}}, "must be a list"),
        ({"plugins": ["/lib/evil.so"]}, "lists '/lib/evil.so' as a plugin, which must be an object"),
        (plugin(KERNEL, name="../../evil"), "'../../evil', which this Ingot lacks; it has skip_norm"),
        (plugin(KERNEL, name="warp\x1b[2J"), r"'warp\\x1b\[2J', which this Ingot lacks"),
        (plugin(KERNEL, version=2), "version 2, this Ingot in version 1"),
        (plugin(KERNEL, version="x" * 200_000), "this Ingot in version 1"),
        (twice(plugin(KERNEL)), "lists the plugin skip_norm twice"),
        (plugin(kernels={}), "kernels are a list of at most"),
        (plugin({**KERNEL, "member": "../../etc/passwd"}), "no member '../../etc/passwd'"),
        (plugin({**KERNEL, "member": "/etc/passwd"}), "no member '/etc/passwd'"),
        (plugin({**KERNEL, "member": "tensorrt-rtx/plan.bin"}), "is not the kernel that the header describes"),
        (plugin({**KERNEL, "sha256": "0" * 64}), "is not the kernel that the header describes"),
        (plugin({**KERNEL, "sha256": "A" * 64}), "has the digest"),
        (plugin({**KERNEL, "arch": "sm_89; reboot"}), "a kernel is for"),
        (plugin({**KERNEL, "arch": "sm_120"}), "for sm_120, not for sm_89"),
        (plugin({**KERNEL, "warps": 2**40}), "warps"),
        (plugin({**KERNEL, "shared_bytes": -1}), "bytes of shared memory"),
        (plugin({**KERNEL, "symbol": "a\0b"}), "which is no name of one"),
        (plugin({**KERNEL, "symbol": "\ud800"}), "which is no name of one"),
        (plugin({**KERNEL, "key": "x" * 1000}), "which is no name of one"),
    ],
)
def test_options_of_another_form_are_refused(
    trt: FakeTensorRt, gpu: FakeGpu, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, options)
    with pytest.raises(EngineError, match=said) as caught:
        open_engine(path)
    assert len(str(caught.value)) < 600
    assert str(caught.value).replace("\n", " ").isprintable()
    assert str(path) in (caught.value.where or "")
    assert trt.seen == []
    if "not for sm_89" not in said:
        assert "cuDevicePrimaryCtxRetain" not in gpu.calls
    assert [target.name for target in check_file(path).targets] == ["tensorrt-rtx", "cpu"], "others stay usable"


def test_the_same_header_in_good_order_is_taken(
    trt: FakeTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_host, "register", lambda *given: None)
    options = {**plugin(KERNEL), "proven": True, "unread": [], "profiles": {"x": GOOD}}
    with open_engine(written(tmp_path, options)) as engine:
        assert engine.target == "tensorrt-rtx"


def test_an_empty_plan_is_refused(trt: FakeTensorRt, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the plan of target tensorrt-rtx is empty"):
        open_engine(written(tmp_path, {}, plan=b""))
    assert trt.seen == []


GIVES = [{"dtype": "f\x07", "shape": [1]}]
LAYER = {"kind": "MatMul\x1b[2J", "name": "a\nb\u202e", "outputs": GIVES, "nodes": ["\x1b"]}


@pytest.mark.parametrize(
    ("layers", "code", "said"),
    [
        (json.dumps([LAYER]).encode(), 0, r"MatMul\x1b[2J"),
        (json.dumps([LAYER, 7, None, {"outputs": 3, "nodes": {}}]).encode(), 0, "1 none"),
        (b"{}", 0, "members"),
        (b"", 1, "are no JSON"),
        (b"\xff\xfe", 1, "are no JSON"),
        (b"[" * 100_000, 1, "are no JSON"),
    ],
)
def test_layers_are_shown_without_being_obeyed(tmp_path: Path, layers: bytes, code: int, said: str) -> None:
    aim = Target("tensorrt-rtx", {"layers": "layers.json"}, NEEDS)
    path = write_engine(tmp_path / "e.ingot", AFFINE, [], others=[(aim, {"layers.json": layers})])
    done = CliRunner().invoke(ingot, ["inspect", "--layers", str(path)])
    assert done.exit_code == code, done.output
    assert said in done.output
    assert done.output.replace("\n", " ").isprintable()


def test_options_are_shown_without_being_obeyed(tmp_path: Path) -> None:
    options = {
        "profiles": {"x\x1b[2J": "\x07", "z": [GOOD]},
        "plugins": [{"name": "\x1b]0;", "kernels": [{"key": "\x1b"}, 3]}, 7],
        "proven": "\x1b",
        "\x1b": "\x1b",
    }
    done = CliRunner().invoke(ingot, ["inspect", str(written(tmp_path, options))])
    assert done.exit_code == 0, done.output
    assert done.output.replace("\n", " ").isprintable()
