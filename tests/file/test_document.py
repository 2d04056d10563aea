"""docs/file-format.md: the reader at its end reads what we write, and its numbers are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingot.file import layout
from ingot.file.read import EngineFile

DOCUMENT = Path(__file__).parents[2] / "docs" / "file-format.md"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The page's reader as a file of its own, so that it has nothing but the standard library."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1
    path = tmp_path / "reader.py"
    path.write_text(blocks[0], encoding="utf-8")
    return path


def load(reader: Path) -> Any:
    namespace: dict[str, Any] = {"__name__": "reader"}
    exec(compile(reader.read_text(encoding="utf-8"), str(reader), "exec"), namespace)
    return namespace["read_engine"]


def test_the_reader_reads_every_member(reader: Path, makes: Any, seed: int) -> None:
    path = makes.write(parts=makes.with_large_weights(seed), seed=3)
    header, record, members = load(reader)(path)
    with EngineFile.open(path) as file:
        assert header == file.header.to_json()
        assert record == file.record()
        assert members == {name: file.read(name) for name in file.header.members}


def test_the_reader_notices_damage(reader: Path, makes: Any, seed: int) -> None:
    path, read_engine = makes.write(parts=makes.with_large_weights(seed)), load(reader)
    data = path.read_bytes()
    with EngineFile.open(path) as file:
        places = [200, *(member.offset for member in file.header.members.values()), data.rindex(b'"record"')]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            read_engine(path)


def test_the_reader_is_a_program_of_forty_lines(reader: Path, makes: Any) -> None:
    lines = [line for line in reader.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 45
    done = subprocess.run([sys.executable, "-I", reader, makes.write()], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tiny {'weights.bin': 300,")


def test_numbers_of_the_page() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    first = layout.lay_out([("weights.bin", 1)])
    for said in (
        f"0 … {layout.HEADER_OFFSET - 1} |",
        f"{layout.HEADER_OFFSET} … {layout.HEADER_OFFSET + layout.HEADER_BYTES - 1} |",
        f"{first[1].start} … {first[1].offset - 1} |",
        f"from {layout.FIRST_MEMBER_OFFSET} |",
        f"{layout.HEADER_BYTES:,} bytes of `header.json`",
        f"at most {layout.NAME_LIMIT_BYTES} bytes",
    ):
        assert said in text
