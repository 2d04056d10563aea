"""The session of the target cuda, on stand-ins for the GPU: whose memory, which stream, and what failures become."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.backends.cuda.load import LOADER
from ingot.device.array import DeviceArray, View
from ingot.errors import EngineError, InputError
from ingot.file.read import EngineFile
from ingot.models.handmade import encoder_table
from ingot.signature import Signature, Tensor

IDS, MASK = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 1, 0], [1, 1, 1]])


def loaded(path: Path) -> Any:
    with EngineFile.open(path) as file:
        target = file.header.target("cuda")
        assert target is not None
        return LOADER.load(file, target, threads=1)


def expected(seed: int) -> Any:
    table = encoder_table(seed)
    return np.stack([table[[1, 2]].mean(0), table[[4, 5, 6]].mean(0)])


def nowhere(number: int, shape: tuple[int, ...]) -> View | None:
    return None


def test_runs_from_the_hosts_arrays(encoder: Path, runtime: Any, seed: int) -> None:
    (found,) = loaded(encoder).run([IDS, MASK])
    np.testing.assert_allclose(found, expected(seed), atol=1e-6)


def test_arrays_on_the_gpu_stay_there(encoder: Path, runtime: Any, gpu: Any, seed: int) -> None:
    session = loaded(encoder)
    (found,) = session.run_device([gpu.array(IDS), gpu.array(MASK)], nowhere)
    assert isinstance(found, DeviceArray)
    assert (found.shape, found.dtype, found.device) == ((2, 8), "float32", session.device)
    np.testing.assert_allclose(gpu.read(found.pointer, found.shape, found.dtype), expected(seed), atol=1e-6)
    assert not [step for step in gpu.done if step[0] in ("copy", "to_host")]
    assert gpu.done.index(("run",)) < gpu.done.index(("synchronize", session.own_stream()))


def test_a_result_goes_where_the_caller_says(encoder: Path, runtime: Any, gpu: Any, seed: int) -> None:
    room = gpu.array(np.zeros((2, 8), np.float32))._replace(owner="the caller's", stream=7)
    (found,) = loaded(encoder).run_device([gpu.array(IDS), gpu.array(MASK)], lambda number, shape: room)
    assert found == "the caller's"
    np.testing.assert_allclose(gpu.read(room.pointer, (2, 8), "float32"), expected(seed), atol=1e-6)


def test_streams_wait_for_each_other_and_the_host_for_none(encoder: Path, runtime: Any, gpu: Any) -> None:
    session = loaded(encoder)
    own = session.own_stream()
    ids = gpu.array(IDS)._replace(stream=5)
    (found,) = session.run_device([ids, gpu.array(MASK)], nowhere, 9)
    ran = gpu.done.index(("run",))
    waits = [step for step in gpu.done if step[0] == "wait"]
    before = [step for step in waits if gpu.done.index(step) < ran]
    assert gpu.follows()[: len(before)] == [(own, 9), (own, 5)], "the run goes after what makes its inputs"
    assert gpu.follows()[len(before)] == (9, own), "and what comes next goes after the run"
    assert ("synchronize", own) not in gpu.done
    assert runtime.providers == [("CUDAExecutionProvider", runtime.providers[0][1])]
    assert runtime.providers[0][1]["user_compute_stream"] == str(own)
    del found
    gc.collect()


def test_a_result_whose_size_follows_from_no_input_is_copied_once_its_size_is_known(
    write: Any, runtime: Any, gpu: Any, seed: int
) -> None:
    signature = Signature(
        (Tensor("x", "float32", ("n",)),),
        (Tensor("y", "int64", (1, "found")),),
        (),
        {"x": {"tensor": 0}},
        {"tensor": 0},
    )
    path = write("g (float[n] x) => (int64[1, found] y) { y = NonZero(x) }", signature)
    x = np.random.default_rng(seed).choice([0.0, 1.0], 20).astype(np.float32)
    x[0] = 1
    session = loaded(path)
    (found,) = session.run_device([gpu.array(x)], nowhere)
    assert isinstance(found, DeviceArray)
    assert gpu.read(found.pointer, found.shape, found.dtype).tolist() == [list(np.flatnonzero(x))]
    assert ("copy", found.nbytes, session.own_stream()) in gpu.done


def test_bfloat16_comes_and_goes_as_bits(write: Any, runtime: Any, gpu: Any, seed: int) -> None:
    tensors = [Tensor(name, "bfloat16", ("n",)) for name in "xy"]
    signature = Signature((tensors[0],), (tensors[1],), (), {"x": {"tensor": 0}}, {"tensor": 0})
    path = write("g (bfloat16[n] x) => (bfloat16[n] y) { y = Identity(x) }", signature)
    bits = np.random.default_rng(seed).integers(0, 2**15, 11).astype(np.uint16)
    (found,) = loaded(path).run([bits])
    assert found.dtype == np.uint16
    assert np.array_equal(found, bits)


def test_an_array_elsewhere_is_refused(encoder: Path, runtime: Any, gpu: Any) -> None:
    session = loaded(encoder)
    with pytest.raises(InputError, match="'mask' lies in the host's memory"):
        session.run_device([gpu.array(IDS), View(MASK.ctypes.data, MASK.shape, "int64", -1, None, MASK)], nowhere)
    with pytest.raises(InputError, match="'ids' is on GPU 3, and the engine is on GPU 0"):
        session.run_device([gpu.array(IDS)._replace(device=3), gpu.array(MASK)], nowhere)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", "memory ran out while running"),
        ("BFCArena: Failed to allocate memory for requested buffer of size 99", "memory ran out while running"),
        ("cuDNN is unavailable for CUDA Execution Provider", "cuDNN does not load while running"),
        ("CUDA failure 700: an illegal memory access", "ONNX Runtime failed while running"),
    ],
)
def test_a_failing_run_is_an_engine_error_with_the_shapes(
    encoder: Path, runtime: Any, gpu: Any, error: str, said: str
) -> None:
    session = loaded(encoder)
    runtime.run_error = error
    for run in (
        lambda: session.run([IDS, MASK]),
        lambda: session.run_device([gpu.array(IDS), gpu.array(MASK)], nowhere),
    ):
        with pytest.raises(EngineError, match=said) as caught:
            run()
        assert "[2, 3]" in str(caught.value)
        assert caught.value.fix


def test_closing_gives_back_the_stream_once_and_runs_no_more(encoder: Path, runtime: Any, gpu: Any) -> None:
    session = loaded(encoder)
    session.close()
    session.close()
    assert gpu.done.count(("destroy_stream", session.own_stream())) == 1
    with pytest.raises(EngineError, match="closed"):
        session.run([IDS, MASK])
    with pytest.raises(EngineError, match="closed"):
        session.run_device([gpu.array(IDS), gpu.array(MASK)], nowhere)


def test_a_forked_child_is_told(encoder: Path, runtime: Any, gpu: Any) -> None:
    session = loaded(encoder)
    session.forked = gpu.forked = True
    for run in (
        lambda: session.run([IDS, MASK]),
        lambda: session.run_device([gpu.array(IDS), gpu.array(MASK)], nowhere),
    ):
        with pytest.raises(EngineError, match="a GPU stays with the parent"):
            run()
    session.close()
    assert ("destroy_stream", session.own_stream()) not in gpu.done


def test_many_threads_get_their_own_results(encoder: Path, runtime: Any, gpu: Any, seed: int) -> None:
    session, table, wrong = loaded(encoder), encoder_table(seed), []

    def work(word: int) -> None:
        for _ in range(20):
            (found,) = session.run_device([gpu.array(np.full((1, 4), word)), gpu.array(np.ones((1, 4), int))], nowhere)
            got = gpu.read(found.pointer, found.shape, found.dtype)
            if not np.allclose(got[0], table[word], atol=1e-6):
                wrong.append(word)

    threads = [threading.Thread(target=work, args=(word,)) for word in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
