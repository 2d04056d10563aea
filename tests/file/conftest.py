"""Small engine files, and the means to forge one: every CRC and digest right, so that only deeper checks can refuse."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.file.header import Header, Member, Target, Text
from ingot.file.layout import HEADER_BYTES, HEADER_OFFSET, closing, lay_out, record_place
from ingot.file.read import EngineFile, read_header
from ingot.file.write import Draft, Part
from ingot.signature import Dim, Domain, Signature, Tensor

SIGNATURE = Signature(
    inputs=(
        Tensor("ids", "int64", ("batch", "length"), Domain(0, 99)),
        Tensor("mask", "int64", ("batch", "length"), Domain(0, 1, "mask")),
    ),
    outputs=(Tensor("embedding", "float32", ("batch", 8)),),
    dims=(Dim("batch"), Dim("length", 1, 64)),
    parameters={"ids": {"tensor": 0}, "mask": {"tensor": 1}},
    result={"dict": {"embedding": {"tensor": 0}}},
)

HEADER = Header(
    name="tiny",
    signature=SIGNATURE,
    targets=(Target("cpu", {"graph": "cpu/graph.onnx", "weights": "weights.bin"}, {"onnxruntime": ">=1.31"}),),
    verification="full",
    numerics="fast",
    versions={"ingot": "0.1.0"},
    text=Text("tokenizer.json", {"ids": "ids"}, 64, 0, "embedding", {"query": "query: "}, "query"),
    selftest="selftest.npz",
)

LARGE_BYTES = (9 << 20) + 77


@dataclass(frozen=True)
class Makes:
    """What a test makes engine files from."""

    folder: Path
    parts: list[Part]
    header: Header = HEADER

    def write(self, name: str = "tiny.ingot", *, parts: Sequence[Part] | None = None, **record: Any) -> Path:
        """A published file; the parts are those of `self` unless given."""
        path = self.folder / name
        with Draft(self.folder, name, self.header, self.parts if parts is None else parts) as draft:
            draft.finish(record)
            draft.publish(path)
        return path

    def with_large_weights(self, seed: int) -> list[Part]:
        data = np.random.default_rng(seed).bytes(LARGE_BYTES)
        return [Part.of("weights.bin", data), *self.parts[1:]]


@pytest.fixture
def makes(tmp_path: Path, seed: int) -> Makes:
    rng = np.random.default_rng(seed)
    sizes = {"weights.bin": 300, "cpu/graph.onnx": 70, "tokenizer.json": 5, "selftest.npz": 130}
    return Makes(tmp_path, [Part.of(name, rng.bytes(size)) for name, size in sizes.items()])


Forge = Callable[..., None]


@pytest.fixture
def forge() -> Forge:
    """forge(path, edit): `edit` changes the header's JSON in place, or gives the text to put there instead.

    `moved`: the zip structure follows the members that the edit left, not those that are there.
    """

    def to(path: Path, edit: Callable[[dict[str, Any]], bytes | None], *, moved: bool = False) -> None:
        with EngineFile.open(path) as file:
            members, record = file.header.members, file.record()
            value = file.header.to_json()
        text = edit(value)
        text = (json.dumps(value).encode() if text is None else text).ljust(HEADER_BYTES)
        behind = b'",' + json.dumps({"header_sha256": hashlib.sha256(text).hexdigest(), "record": record}).encode()[1:]
        last = b'{"sha256":"' + hashlib.sha256(behind).hexdigest().encode() + behind
        rewrite(path, text, Header.from_json(value).members if moved else members, last)

    return to


@pytest.fixture
def forge_record() -> Forge:
    """forge_record(path, data): other bytes as record.json, under a CRC-32 that is right."""

    def to(path: Path, data: bytes) -> None:
        members = read_header(path).members
        rewrite(path, path.read_bytes()[HEADER_OFFSET : HEADER_OFFSET + HEADER_BYTES], members, data)

    return to


def rewrite(path: Path, text: bytes, members: Mapping[str, Member], record: bytes) -> None:
    """Header, record and zip structure; the members' own bytes stay."""
    places = lay_out((name, member.size_bytes) for name, member in members.items())
    place = record_place(places[-1], len(record))
    crcs = [zlib.crc32(text), *(member.crc32 for member in members.values()), zlib.crc32(record)]
    with path.open("r+b") as out:
        for each, crc in zip([*places, place], crcs, strict=True):
            out.seek(each.start)
            out.write(each.local_header(crc))
        out.write(record + closing([*places, place], crcs))
        out.truncate()
        out.seek(HEADER_OFFSET)
        out.write(text)


@pytest.fixture
def left_behind(tmp_path: Path) -> Callable[[], list[str]]:
    """Names in the test's folder that hold a part of an engine file under a temporary name."""
    return lambda: [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
