"""What a typed model resolves to, and what bad ones are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ingot.errors import SourceError, UsageError
from ingot.frontend.source import as_call, load_inputs, resolve


class Scale(torch.nn.Module):
    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(3, device=device))

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        return x * self.factor if shift is None else x * self.factor + shift


def test_a_module_with_inputs_is_taken_as_it_is() -> None:
    module, x = Scale(), torch.ones(2, 3)
    source = resolve(module, x)
    assert source.module is module
    assert source.name == "Scale"
    assert source.args == (x,)
    assert source.dynamic_shapes is None
    assert resolve(module, {"x": x, "shift": x}).kwargs == {"x": x, "shift": x}
    assert resolve(module, (x, x)).args == (x, x)


def test_a_module_without_inputs_is_told_the_call_to_paste() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Scale())
    assert "ingot.compile(model, x)" in str(caught.value)


def test_weights_on_the_meta_device_are_named() -> None:
    with pytest.raises(SourceError, match=r"factor.*\n.*to_empty"):
        resolve(Scale("meta"), torch.ones(2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("traced", [False, True])
def test_a_scripted_module_is_refused(traced: bool) -> None:
    module = torch.nn.Linear(3, 2)
    scripted = torch.jit.trace(module, torch.ones(1, 3)) if traced else torch.jit.script(module)
    with pytest.raises(SourceError, match=r"ScriptModule of Linear.*\n.*compile the module that it was made from"):
        resolve(scripted, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("no/such/folder/at/all", "there is no file or folder"),
        ("organisation/model", "hf download organisation/model"),
        ("", "there is no file or folder"),
        ("not a name:x", "there is no file or folder"),
    ],
)
def test_what_does_not_exist(typed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        resolve(typed)
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".gguf", ".pt", ".safetensors", ".py", ".txt"])
def test_a_file_is_told_what_is_read_instead(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"anything")
    with pytest.raises(UsageError, match="is a file") as caught:
        resolve(str(file))
    assert caught.value.fix


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"config\.json is missing"):
        resolve(tmp_path)


def test_arrays_become_tensors_however_they_are_laid_out(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32)
    frozen = values.copy()
    frozen.flags.writeable = False
    for array in (values[:, ::-1], values.T, values.astype(">f4"), frozen, values[0, 0]):
        args, kwargs = as_call(array)
        assert kwargs == {}
        np.testing.assert_array_equal(args[0].numpy(), array)
        assert args[0].dtype == torch.float32


def test_arrays_are_found_in_nested_inputs() -> None:
    args, _ = as_call(({"pair": (np.zeros(2), [np.ones(1)])}, None, 3))
    assert isinstance(args[0]["pair"][0], torch.Tensor)
    assert isinstance(args[0]["pair"][1][0], torch.Tensor)
    assert args[1:] == (None, 3)


def test_an_array_of_strings_is_refused() -> None:
    with pytest.raises(UsageError, match="x is an array of"):
        as_call({"x": np.array(["a"])})


def test_inputs_are_copies() -> None:
    array = np.zeros(3, np.float32)
    args, _ = as_call(array)
    array[:] = 1
    assert args[0].sum() == 0


def test_npz_gives_tensors_by_name(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.arange(3), mask=np.ones((2, 2), bool))
    inputs = load_inputs(path)
    assert list(inputs) == ["x", "mask"]
    assert inputs["mask"].dtype == torch.bool
    assert inputs["x"].tolist() == [0, 1, 2]


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    bad = {
        "absent.npz": None,
        "empty.npz": b"",
        "text.npz": b"not an archive",
        "zip.npz": b"PK\x03\x04 cut short",
    }
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_inputs(tmp_path / name)
        assert name in str(caught.value)
    np.save(tmp_path / "one.npy", np.zeros(2))
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    for name in ("one.npy", "none.npz", "pickled.npz"):
        with pytest.raises(UsageError):
            load_inputs(tmp_path / name)
