"""The engine file that was committed when format 1 was made opens, and says what it said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ingot.file.read import EngineFile, read_header
from ingot.signature import Dim, Tensor

PATH = Path(__file__).parent / "data" / "format-1.ingot"

SIZE_BYTES = 264_387

DIGESTS = {"weights.bin": "f0c64c2ca2c3b09d", "cpu/graph.onnx": "26cd3adf912df949", "selftest.npz": "ffe3074cc4283375"}

WEIGHT = (np.arange(32, dtype=np.float32) - 16).reshape(4, 8) / 8


def test_it_opens_and_says_what_it_said() -> None:
    with EngineFile.open(PATH, strict=True) as file:
        header = file.header
        assert (header.format, header.oldest_reader, header.name) == (1, 1, "format-1")
        assert (header.verification, header.numerics, header.versions) == ("full", "fast", {"ingot": "0.1.0"})
        assert header.signature.inputs == (Tensor("x", "float32", ("batch", 4)),)
        assert header.signature.outputs == (Tensor("y", "float32", ("batch", 8)),)
        assert header.signature.dims == (Dim("batch"),)
        assert header.signature.parameters == {"x": {"tensor": 0}}
        assert header.text is None
        target = header.target("cpu")
        assert target is not None
        assert target.members == {"graph": "cpu/graph.onnx", "weights": "weights.bin"}
        assert list(header.members) == ["weights.bin", "cpu/graph.onnx", "selftest.npz"]
        assert header.members["weights.bin"].offset == 262144
        assert file.read("weights.bin") == WEIGHT.tobytes()
        assert b"./" * 150 in file.read("cpu/graph.onnx")
        vectors = np.load(io.BytesIO(file.read("selftest.npz")), allow_pickle=False)
        np.testing.assert_array_equal(vectors["0/in/x"] @ WEIGHT, vectors["0/out/y"])
        assert file.record() == {"seed": 1}


def test_its_header_alone_reads() -> None:
    assert read_header(PATH).name == "format-1"


def test_its_bytes_are_the_committed_ones() -> None:
    """A file that was made again by a later writer would prove nothing: its members' digests are written down here."""
    members = read_header(PATH).members
    assert PATH.stat().st_size == SIZE_BYTES
    assert {name: member.sha256[:16] for name, member in members.items()} == DIGESTS
