"""An engine as people call it: what it takes, what it gives, how long it lives, and what it says when it is misused."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import FormatError, InputError, RequirementError, UnverifiedError, UsageError
from ingot.file import atomic
from ingot.file.header import Target
from ingot.models.handmade import encoder_table, write_encoder, write_engine
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine
from ingot.signature import Dim, Signature, Tensor

IDS = np.array([[1, 2, 3], [4, 5, 6]])
MASK = np.array([[1, 1, 1], [1, 0, 0]])


def expected(seed: int) -> Any:
    table = encoder_table(seed)
    return np.stack([table[[1, 2, 3]].mean(0), table[4]])


def test_takes_arrays_by_name_and_by_position(encoder: Engine, seed: int) -> None:
    for out in (encoder(IDS, MASK), encoder(ids=IDS, mask=MASK), encoder(IDS, mask=MASK), encoder(mask=MASK, ids=IDS)):
        assert np.allclose(out.embedding, expected(seed), atol=1e-6)


@pytest.mark.parametrize("turn", [list, lambda a: a.astype(np.int32), lambda a: a.astype(">i8"), np.asfortranarray])
def test_takes_whatever_means_the_same_array(encoder: Engine, seed: int, turn: Any) -> None:
    out = encoder(turn(IDS) if turn is not list else IDS.tolist(), MASK)
    assert np.allclose(out.embedding, expected(seed), atol=1e-6)


def test_takes_views_and_read_only_arrays(encoder: Engine, seed: int) -> None:
    wide = np.zeros((2, 6), np.int64)
    wide[:, ::2] = IDS
    frozen = MASK.copy()
    frozen.flags.writeable = False
    assert np.allclose(encoder(wide[:, ::2], frozen).embedding, expected(seed), atol=1e-6)


def test_takes_the_array_protocol_and_dlpack(encoder: Engine, seed: int) -> None:
    class Holder:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return IDS

    class Capsule:
        def __dlpack__(self, **options: Any) -> Any:
            return MASK.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return MASK.__dlpack_device__()

    assert np.allclose(encoder(Holder(), Capsule()).embedding, expected(seed), atol=1e-6)


def test_torch_in_gives_torch_out(encoder: Engine, seed: int) -> None:
    torch = pytest.importorskip("torch")
    out = encoder(torch.from_numpy(IDS), MASK)
    assert isinstance(out.embedding, torch.Tensor)
    assert np.allclose(out.embedding.numpy(), expected(seed), atol=1e-6)
    assert isinstance(encoder(IDS, MASK).embedding, np.ndarray)


def test_nested_arguments_and_results_keep_their_structure(nested: Engine) -> None:
    left, right, scale = np.ones((2, 3), np.float32), np.full((2, 3), 4, np.float32), np.ones(5, np.float32)
    out = nested({"left": left, "right": right}, (scale, None), "fast")
    assert (out.sum == 5).all()
    assert (out[0] == 5).all()
    product, nothing = out.pair
    assert (product == 4).all()
    assert nothing is None
    assert out.info["rows"].tolist() == [2]
    assert "NestedOutput(sum=float32[2, 3]" in repr(out)


def test_nested_arguments_of_another_structure_are_refused(nested: Engine) -> None:
    ones = np.ones((1, 3), np.float32)
    good, scale = {"left": ones, "right": ones}, np.ones(3, np.float32)
    for batch, more, said in (
        (ones, (scale, None), "'batch' must be a dict with left, right, and is a ndarray"),
        ({"left": ones}, (scale, None), "'batch.right' is missing"),
        ({"left": ones, "rihgt": ones}, (scale, None), "'batch' has no 'rihgt'"),
        (good, (scale,), "'more' must be a tuple of 2 items, and is 1 items"),
        (good, scale, "'more' must be a tuple of 2 items, and is a ndarray"),
    ):
        with pytest.raises(InputError) as caught:
            nested(batch, more)
        assert said in caught.value.what


def test_constants_may_be_left_out_and_not_changed(nested: Engine) -> None:
    batch = {"left": np.ones((1, 3), np.float32), "right": np.ones((1, 3), np.float32)}
    scale = np.ones(3, np.float32)
    assert nested(batch, (scale, None)).info.rows.tolist() == [1]
    with pytest.raises(InputError, match="'mode' was fixed to 'fast'"):
        nested(batch, (scale, None), mode="slow")


def test_flat_names_work_for_nested_inputs(nested: Engine) -> None:
    ones = np.ones((1, 3), np.float32)
    out = nested.run_named({"batch.left": ones, "batch.right": ones, "more.0": np.ones(3, np.float32)})
    assert out["sum"].tolist() == [[2, 2, 2]]


WRONG = [
    ((IDS,), {}, "input 'mask' missing", "engine(ids=…, mask=…)"),
    ((IDS, MASK, MASK), {}, "takes 2 inputs and was given 3", "engine("),
    ((IDS, MASK), {"ids": IDS}, "given twice", "engine("),
    ((), {"ids": IDS, "maks": MASK}, "no input 'maks'", "did you mean mask?"),
    ((IDS.astype(float), MASK), {}, "is float64, and must be int64", 'ids.astype("int64")'),
    ((IDS.astype(np.uint64), MASK), {}, "is uint64, and must be int64", 'ids.astype("int64")'),
    ((IDS[0], MASK), {}, "has 1 axes, and must have 2", "ids[None]"),
    ((IDS, MASK[:1]), {}, "axis 0 of input 'mask' is 1, but axis 0 of input 'ids' is 2", "batch"),
    ((IDS[:, :0], MASK[:, :0]), {}, "nothing to compute", "at least 1"),
    ((np.ones((1, 65), int), np.ones((1, 65), int)), {}, "is 65, and may be 1 to 64", "--shape ids=batch"),
    ((IDS + 44, MASK), {}, "holds 50 at [1, 2]", "0..49"),
    ((-IDS, MASK), {}, "holds -1 at [0, 0]", "0..49"),
    ((IDS, MASK + 1), {}, "outside mask 0 or 1", "1 for what counts"),
    ((IDS, MASK[:, ::-1]), {}, "mask 'mask' pads in front: position 1 of row [1] is 0", "padding_side='right'"),
    (([[1, 2], [3]], MASK), {}, "whose rows differ in length", "array"),
    (([[1.5, 2]], MASK), {}, "holds 1.5 at [0, 0]", "integers"),
    ((None, MASK), {}, "is None", "numpy array"),
    (("text", MASK), {}, "is an object of type str", "numpy array"),
    ((np.array([[None, 1]]), MASK), {}, "Python objects", "astype"),
    ((np.ma.masked_array(IDS), MASK), {}, "masked array", "filled"),
]


@pytest.mark.parametrize(("args", "kwargs", "what", "fix"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_what_does_not_fit_is_said(encoder: Engine, args: Any, kwargs: Any, what: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        encoder(*args, **kwargs)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    assert caught.value.exit_code == 2


def test_the_checks_hold_for_large_arrays_too(encoder: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(0, 50, (5, 60)), np.ones((5, 60), np.int64)
    assert encoder(ids, mask).embedding.shape == (5, 8)
    row, column = int(rng.integers(5)), int(rng.integers(1, 59))
    for value in (50, -1):
        wrong = ids.copy()
        wrong[row, column] = value
        with pytest.raises(InputError, match=rf"holds {value} at \[{row}, {column}\]"):
            encoder(wrong, mask)
    mask[row, column] = 0
    with pytest.raises(InputError, match=rf"position {column} of row \[{row}\]"):
        encoder(ids, mask)
    mask[row, column:] = 0
    assert np.isfinite(encoder(ids, mask).embedding).all()


def test_a_dim_that_follows_from_an_axis_is_checked(nested: Engine) -> None:
    batch = {"left": np.ones((1, 3), np.float32), "right": np.ones((1, 3), np.float32)}
    for length, said in ((4, r"no 2\*n \+ 1"), (11, "may be 3 to 9")):
        with pytest.raises(InputError, match=said):
            nested(batch, (np.ones(length, np.float32), None))


def test_says_what_it_takes_and_gives(encoder: Engine, encoder_file: Path) -> None:
    assert [str(tensor) for tensor in encoder.inputs] == ["ids int64 [batch, sequence]", "mask int64 [batch, sequence]"]
    assert encoder.inputs[0].domain is not None
    assert [str(dim) for dim in encoder.dims] == ["batch:1..", "sequence:1..64"]
    assert (encoder.name, encoder.target, encoder.threads, encoder.path) == ("encoder", "cpu", 1, encoder_file)
    assert "encoder on cpu: ids int64" in repr(encoder)
    assert encoder.report["verification"] == "full"


def test_saves_the_file_that_it_runs_from(encoder: Engine, encoder_file: Path, tmp_path: Path) -> None:
    saved = encoder.save(tmp_path / "copy.ingot")
    encoder_file_bytes = encoder_file.read_bytes()
    assert saved.read_bytes() == encoder_file_bytes
    encoder_file.unlink()
    encoder.save(saved)
    assert saved.read_bytes() == encoder_file_bytes
    with pytest.raises(UsageError):
        encoder.save(tmp_path / "no such folder" / "x.ingot")


def test_saves_its_own_bytes_though_it_is_closed_meanwhile(
    encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(encoder_file)
    number = engine._file.fileno()
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"x" * encoder_file.stat().st_size)
    opened = []
    read = atomic._read

    def closes(descriptor: int, offset: int) -> bytes:
        if not opened:
            engine.close()
            opened.append(os.open(foreign, os.O_RDONLY))
        return read(descriptor, offset)

    monkeypatch.setattr(atomic, "_read", closes)
    saved = engine.save(tmp_path / "copy.ingot")
    os.close(opened[0])
    assert opened == [number], "the number was not used again: nothing was tested"
    assert saved.read_bytes() == encoder_file.read_bytes()


FORKS = """
import atexit, os
import torch
import ingot

engine = ingot.compile(torch.nn.Linear(3, 2), torch.ones(2, 3), verify="off", threads=1)
child = os.fork()
if not child:
    # What an ending interpreter runs, without the exit of native libraries, which wait for threads of the parent.
    atexit._run_exitfuncs()
    os._exit(0)
os.waitpid(child, 0)
print(engine.path.exists())
engine.close()
print(engine.path.parent.exists())
"""


def test_a_forked_child_removes_nothing_of_its_parents(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arguments = [sys.executable, "-W", "ignore", "-c", FORKS]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_closed_engine_says_so(encoder_file: Path) -> None:
    with open_engine(encoder_file) as engine:
        engine(IDS, MASK)
    engine.close()
    for use in (
        lambda: engine(IDS, MASK),
        lambda: engine.run_flat([IDS, MASK]),
        lambda: engine.run_named({}),
        lambda: engine.save("x"),
        lambda: engine.report,
        lambda: engine.member("weights.bin"),
        engine.__enter__,
    ):
        with pytest.raises(UsageError, match="was closed"):
            use()
    assert "closed" in repr(engine)


def test_a_forgotten_engine_gives_back_its_file(encoder_file: Path) -> None:
    engine = open_engine(encoder_file)
    file = engine._file
    del engine
    gc.collect()
    assert "closed" in repr(file)


def test_cannot_be_pickled(encoder: Engine) -> None:
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(encoder)


def test_runs_from_many_threads(encoder: Engine, seed: int) -> None:
    table = encoder_table(seed)

    def mean_of(number: int) -> bool:
        ids = np.full((1, 1 + number % 7), number % 50)
        return np.allclose(encoder(ids, np.ones_like(ids)).embedding[0], table[number % 50], atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(mean_of, range(400)))


def test_an_unverified_engine_asks_to_be_allowed(tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "off.ingot", seed, verification="off")
    with pytest.raises(UnverifiedError, match="allow_unverified=True"):
        open_engine(path)
    with open_engine(path, allow_unverified=True) as engine:
        assert "not verified" in str(engine.report)


def test_the_first_target_that_runs_is_chosen(tmp_path: Path, seed: int) -> None:
    path = write_encoder(tmp_path / "two.ingot", seed, before=(Target("hal9000", {}, {"moonlight": ">=2"}),))
    with open_engine(path) as engine:
        assert engine.target == "cpu"
    with pytest.raises(RequirementError, match="knows the target hal9000"):
        open_engine(path, target="hal9000")
    with pytest.raises(UsageError, match="no target 'cuda'; it has hal9000, cpu"):
        open_engine(path, target="cuda")


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_threads_must_be_a_count(encoder_file: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="no count of threads"):
        open_engine(encoder_file, threads=threads)


def test_strict_notices_flipped_weights(tmp_path: Path, seed: int) -> None:
    """Only in members above a chunk: smaller ones are always checked."""
    words = np.random.default_rng(seed).standard_normal((2**18, 8)).astype(np.float32)
    signature = Signature(
        (Tensor("x", "int64", ("n",)),),
        (Tensor("y", "float32", ("n", 8)),),
        (Dim("n"),),
        {"x": {"tensor": 0}},
        {"tensor": 0},
    )
    graph = "g (int64[n] x) => (float[n, 8] y) { y = Gather(table, x) }"
    path = write_engine(tmp_path / "large.ingot", graph, signature, {"table": words})
    with open_engine(path, strict=True) as engine:
        assert (engine([5]) == words[5]).all()
        offset = engine.header.members["weights.bin"].offset
    content = bytearray(path.read_bytes())
    content[offset + 4_500_000] ^= 1
    path.write_bytes(content)
    open_engine(path).close()
    with pytest.raises(FormatError, match="chunk 1"):
        open_engine(path, strict=True)


def test_a_result_of_one_tensor_is_that_array(tmp_path: Path) -> None:
    signature = Signature(
        (Tensor("x", "float32", ("batch", 4)),),
        (Tensor("y", "float32", ("batch", 4)),),
        (Dim("batch"),),
        {"x": {"tensor": 0}},
        {"tensor": 0},
    )
    graph = "g (float[batch, 4] x) => (float[batch, 4] y) { y = Mul(x, w) }"
    path = write_engine(tmp_path / "tiny.ingot", graph, signature, {"w": np.full(4, 2, np.float32)})
    x = np.ones((2, 4), np.float32)
    with open_engine(path, threads=1) as engine:
        out = engine(x)
        assert isinstance(out, np.ndarray)
        assert (out == 2).all()
