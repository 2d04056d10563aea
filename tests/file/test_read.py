"""What is not an engine file is told what it is; a forged one, every digest of which holds, is refused all the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ingot.errors import FormatError, UsageError
from ingot.file.header import FORMAT
from ingot.file.layout import digests_bytes, lay_out
from ingot.file.read import EngineFile, read_header
from ingot.file.write import Part

Value = dict[str, Any]


@pytest.fixture
def alarm() -> Iterator[None]:
    """What should not wait is interrupted after 20 s."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def zip_of(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.ones(3))


def onnx_model(path: Path) -> None:
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([identity], "g", [x], [y])), path)


def safetensors(path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.touch(), "an empty file"),
    "zeros": (lambda path: path.write_bytes(bytes(300_000)), "zeros"),
    "zip": (zip_of, "another zip archive"),
    "npz": (npz, "another zip archive"),
    "onnx": (onnx_model, "an ONNX model"),
    "gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(100)), "a GGUF file"),
    "safetensors": (safetensors, "a safetensors file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"w": 1}, protocol=2)), "a pickle"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "Git LFS"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip archive"),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html></html>"), "a web page"),
    "text": (lambda path: path.write_text("hello\n" * 100_000), "not an engine file"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("reads", [read_header, EngineFile.open])
def test_other_files_are_told_what_they_are(tmp_path: Path, kind: str, reads: Callable[[Path], object]) -> None:
    path = tmp_path / "model.ingot"
    make, said = OTHERS[kind]
    make(path)
    with pytest.raises(FormatError, match=said) as caught:
        reads(path)
    assert str(path) in str(caught.value.where)
    assert caught.value.fix


def test_no_two_kinds_get_one_message() -> None:
    said = [message for kind, (_, message) in OTHERS.items() if kind != "npz"]
    assert len(set(said)) == len(said)


def test_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "no.ingot", tmp_path / "no" / "no.ingot", "nul\0.ingot"):
        with pytest.raises(UsageError, match="there is no file"):
            read_header(path)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        read_header(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(UsageError, match="is a folder") as caught:
        EngineFile.open(tmp_path)
    assert caught.value.fix == f"ingot compile {tmp_path}"


@pytest.mark.usefixtures("alarm")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UsageError, match="device, pipe or socket"):
            EngineFile.open(path)


def test_a_file_that_may_not_be_read(makes: Any) -> None:
    path = makes.write()
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            read_header(path)
    finally:
        if root:
            os.seteuid(0)


def put(value: Any, path: str, new: Any) -> None:
    """put(header, "members|cpu/graph.onnx|offset", 0): keys apart by "|", for names hold dots and slashes."""
    *parents, last = path.split("|")
    for key in parents:
        value = value[int(key) if isinstance(value, list) else key]
    value[last] = new


SET: list[tuple[str, Any, str]] = [
    ("verification", "maybe", "verification 'maybe' is none of"),
    ("numerics", "exact", "numerics 'exact' is none of"),
    ("name", ["a"], "is no text"),
    ("name", "red\x1b[31m", "do not print"),
    ("name", "\ud800", "do not print"),
    ("versions", {"ingot": "1\n2"}, "do not print"),
    ("selftest", "gone.npz", "self-test is the member 'gone.npz'"),
    ("text|tokenizer", "gone.json", "tokenizer is the member 'gone.json'"),
    ("text|default_prompt", "gone", "default prompt 'gone'"),
    ("text|max_tokens", -1, "no whole number"),
    ("targets|0|members", {"graph": "gone.onnx"}, "cpu's graph is the member 'gone.onnx'"),
    ("targets|0|options", [], "is no object"),
    ("signature|result", {"tensor": 1}, "names tensor 1 of 1"),
    ("signature|dims", 3, "not readable"),
    ("members|weights.bin|offset", 262_208, "is said to begin at byte 262208"),
    ("members|cpu/graph.onnx|offset", 262_144, "is said to begin at byte 262144"),
    ("members|cpu/graph.onnx|offset", 0, "is said to begin at byte 0"),
    ("members|cpu/graph.onnx|offset", -64, "no whole number"),
    ("members|cpu/graph.onnx|offset", True, "no whole number"),
    ("members|cpu/graph.onnx|offset", 263_000.0, "no whole number"),
    ("members|cpu/graph.onnx|offset", 2**70, "no whole number"),
    ("members|selftest.npz|size_bytes", 4_000_000, "cut off"),
    ("members|selftest.npz|size_bytes", 2**62, "has None for digests"),
    ("members|selftest.npz|digests", "tokenizer.json", "'tokenizer.json' for digests"),
    ("members|selftest.npz|digests", "gone", "is the member 'gone'"),
    ("members|selftest.npz|sha256", "ab" * 31, "no sha256"),
    ("members|selftest.npz|sha256", "AB" * 32, "no sha256"),
    ("members|selftest.npz|sha256", None, "is no text"),
    ("members|selftest.npz|crc32", 1, "is damaged in what is in front of member 'selftest.npz'"),
    (
        "members|../selftest.npz",
        {"offset": 0, "size_bytes": 0, "crc32": 0, "sha256": "0" * 64, "digests": None},
        "name",
    ),
    ("members|record.json", {"offset": 0, "size_bytes": 0, "crc32": 0, "sha256": "0" * 64, "digests": None}, "two"),
    ("members", [], "not readable"),
    ("format", 0, "its format is 0"),
    ("format", "1", "its format is '1'"),
    ("oldest_reader", 2, "its format is 1, for readers from 2 on"),
]


@pytest.mark.parametrize(("path", "new", "said"), SET, ids=[f"{path}={new!r:.30}" for path, new, _ in SET])
def test_a_forged_value(makes: Any, forge: Any, path: str, new: Any, said: str) -> None:
    file = makes.write()
    forge(file, lambda value: put(value, path, new))
    with pytest.raises(FormatError, match=said) as caught:
        read_header(file)
    assert str(file) in str(caught.value.where)
    assert caught.value.fix


TEXTS: dict[str, tuple[Callable[[Value], bytes], str]] = {
    "lists in lists": (lambda _: b'{"a":' + b"[" * 100_000, "nests deeper"),
    "closed lists in lists": (lambda _: b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", "nests deeper"),
    "objects in objects": (lambda _: b'{"a":' * 50_000, "nests deeper"),
    "a number of 200,000 digits": (lambda _: b'{"format":' + b"9" * 200_000 + b"}", "not readable"),
    "a number beyond floats": (lambda _: b'{"format":1e999}', "too large"),
    "NaN": (lambda _: b'{"format":NaN}', "NaN is no JSON"),
    "a list": (lambda _: b"[1]", "not an object"),
    "nothing": (lambda _: b"", "not readable"),
    "UTF-16": (lambda value: json.dumps(value).encode("utf-16"), "not readable"),
    "not ASCII": (lambda value: json.dumps({**value, "name": "é"}, ensure_ascii=False).encode(), "not readable"),
    "two objects": (lambda value: json.dumps(value).encode() + b"{}", "not readable"),
    "a key twice": (lambda value: b'{"name":"x",' + json.dumps(value).encode()[1:], "'name' comes twice"),
    "half": (lambda value: json.dumps(value).encode()[:500], "not readable"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_forged_text(makes: Any, forge: Any, kind: str) -> None:
    file = makes.write()
    text, said = TEXTS[kind]
    forge(file, text)
    with pytest.raises(FormatError, match=said):
        EngineFile.open(file)


@pytest.mark.parametrize("key", ["format", "name", "signature", "targets", "members", "text", "selftest", "versions"])
def test_a_header_that_lacks_a_key(makes: Any, forge: Any, key: str) -> None:
    file = makes.write()
    forge(file, lambda value: value.pop(key) and None)
    with pytest.raises(FormatError):
        read_header(file)


def test_forged_digests_of_a_large_member(makes: Any, forge: Any, seed: int) -> None:
    file = makes.write(parts=makes.with_large_weights(seed))
    for path, new, said in (
        ("members|weights.bin|digests", None, "has None for digests"),
        ("members|weights.bin|digests", "cpu/graph.onnx", "for digests"),
        ("members|weights.bin|sha256", "0" * 64, "is no list of digests"),
        ("members|weights.bin.sha256|size_bytes", 64, "is no list of digests|is said to begin"),
    ):
        copy = makes.folder / "copy.ingot"
        copy.write_bytes(file.read_bytes())
        forge(copy, lambda value, path=path, new=new: put(value, path, new))
        with pytest.raises(FormatError, match=said):
            read_header(copy)


def test_a_forged_file_allocates_nothing_large(makes: Any, forge: Any) -> None:
    """64 GiB of a hole in the disk, every digest that opening checks being right: little is read, and reading fails at
    the first chunk. The process may have 300 MB of address space more than it takes."""
    file, size = makes.write(), 64 << 30
    listed = bytes(digests_bytes(size))
    sha256 = hashlib.sha256(listed).hexdigest()

    def claim(value: Value) -> None:
        vectors = value["members"]["selftest.npz"]
        offset = lay_out((name, member["size_bytes"]) for name, member in value["members"].items())[-1].start
        offset += -offset % 4096
        vectors |= {"offset": offset, "size_bytes": size, "sha256": sha256, "digests": "selftest.npz.sha256"}
        start = offset + size + 54 + len("selftest.npz.sha256")
        value["members"]["selftest.npz.sha256"] = {
            "offset": start + -start % 64,
            "size_bytes": len(listed),
            "crc32": zlib.crc32(listed),
            "sha256": sha256,
            "digests": None,
        }

    forge(file, claim, moved=True)
    assert file.stat().st_size > size
    script = textwrap.dedent(f"""
        import resource
        from ingot.errors import FormatError
        from ingot.file.read import EngineFile
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
        file = EngineFile.open({str(file)!r})
        try:
            file.read("selftest.npz")
        except FormatError as error:
            print("refused:", error.what)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused: member 'selftest.npz' is not what its digests say: chunk 0 differs\n", done.stderr


def test_a_newer_format_says_what_reads_it(makes: Any, forge: Any) -> None:
    file = makes.write()

    def newer(value: Value) -> bytes:
        return json.dumps({"format": 7, "oldest_reader": 5, "versions": {"ingot": "3.2.1"}, "all": "else"}).encode()

    forge(file, newer)
    with pytest.raises(FormatError, match=r"written by Ingot 3\.2\.1, is of format 7, .*format 5") as caught:
        read_header(file)
    assert caught.value.fix == "pip install --upgrade ingot-compiler"
    assert f"up to {FORMAT}" in caught.value.what


def test_a_newer_format_that_old_readers_understand_opens(makes: Any, forge: Any) -> None:
    file = makes.write()

    def newer(value: Value) -> None:
        value["format"] = 7
        value["colour"] = {"new": 1}
        value["text"]["language"] = "en"
        value["targets"][0]["since"] = 7
        value["members"]["weights.bin"]["md5"] = "x"

    forge(file, newer)
    with EngineFile.open(file, strict=True) as opened:
        assert opened.header.format == 7
        assert opened.header.targets == makes.header.targets
        assert opened.header.text == makes.header.text


def record_text(record: str, *, header_sha256: str = "0" * 64) -> bytes:
    behind = f'","header_sha256":"{header_sha256}","record":{record}}}'.encode()
    return b'{"sha256":"' + hashlib.sha256(behind).hexdigest().encode() + behind


RECORDS: dict[str, tuple[bytes, str]] = {
    "one digit off": (record_text("{}").replace(b'"record":{}', b'"record":{ }'), "its sha256 differs"),
    "of another header": (record_text("{}"), "belongs to another header"),
    "no object": (record_text("[]"), "not readable"),
    "bottomless": (record_text("[" * 100_000), "nests deeper"),
    "NaN": (record_text('{"seconds":NaN}'), "NaN is no JSON"),
    "a key twice": (record_text('{"a":1,"a":2}'), "comes twice"),
    "another layout": (b'{"record":{}}'.ljust(200), "its sha256 differs"),
    "too short": (b"{}", "cut off"),
    "too long": (record_text('"' + "x" * (16 << 20) + '"'), "goes on for"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_forged_record(makes: Any, forge_record: Any, kind: str) -> None:
    file = makes.write()
    data, said = RECORDS[kind]
    forge_record(file, data)
    with pytest.raises(FormatError, match=said):
        read_header(file)


def test_a_record_of_another_engine(makes: Any, forge_record: Any) -> None:
    """The very bytes of a record that is right in the file that it comes from."""
    data = makes.write("a.ingot", accuracy=200.0).read_bytes()
    with zipfile.ZipFile(makes.folder / "a.ingot") as archive:
        record = archive.read("record.json")
    assert record in data
    other = makes.write("b.ingot", parts=[*makes.parts[:-1], Part.of("selftest.npz", bytes(130))])
    forge_record(other, record)
    with pytest.raises(FormatError, match="belongs to another header"):
        read_header(other)


def test_the_record_is_a_copy(makes: Any) -> None:
    with EngineFile.open(makes.write(run=1)) as file:
        file.record()["run"] = 2
        assert file.record() == {"run": 1}


def test_a_member_that_is_not_there(makes: Any) -> None:
    with EngineFile.open(makes.write()) as file, pytest.raises(UsageError, match=r"no member 'x'; it has weights\.bin"):
        file.read("x")


def test_closed(makes: Any) -> None:
    file = EngineFile.open(makes.write())
    descriptor = file.fileno()
    file.close()
    file.close()
    with pytest.raises(UsageError, match="was closed"):
        file.read("weights.bin")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_forgotten_file_gives_its_descriptor_back(makes: Any) -> None:
    path = makes.write()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        EngineFile.open(path)
        with pytest.raises(UsageError):
            EngineFile.open(makes.folder / "missing")
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    for _ in range(20):
        with pytest.raises(FormatError):
            EngineFile.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_threads_read_one_file(makes: Any, seed: int) -> None:
    parts = makes.with_large_weights(seed)
    expected = {part.name: b"".join(part.chunks()) for part in parts}
    wrong: list[str] = []
    with EngineFile.open(makes.write(parts=parts)) as file:

        def read() -> None:
            wrong.extend(name for name, data in expected.items() if file.read(name) != data)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_header_costs_the_same_at_any_size(makes: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = makes.write("a.ingot"), makes.write("b.ingot", parts=makes.with_large_weights(seed))
    took = []
    for path in (small, large):
        read: list[int] = []
        real = os.pread

        def counted(descriptor: int, size: int, offset: int, read: list[int] = read, real: Any = real) -> bytes:
            read.append(size)
            data: bytes = real(descriptor, size, offset)
            return data

        monkeypatch.setattr(os, "pread", counted)
        read_header(path)
        monkeypatch.undo()
        took.append(sum(read))
    assert took[1] - took[0] < 10_000
    assert took[1] < 300_000


def test_reading_imports_nothing_that_production_lacks(makes: Any) -> None:
    path = makes.write()
    script = f"""
import sys
from ingot.file.read import EngineFile
EngineFile.open({str(path)!r}, strict=True).close()
print(sorted({{"torch", "onnx", "onnxruntime", "numpy", "click", "zipfile"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
