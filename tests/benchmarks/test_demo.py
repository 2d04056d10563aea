"""The demo's pieces: a process without PyTorch, and the script that ranks sentences there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import demo, minilm
from ingot.file.header import Text
from ingot.models.handmade import ENCODER_WORDS, encoder_table, write_encoder

ROOT = Path(__file__).resolve().parent.parent.parent


def without(names: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks.without", names, *command], capture_output=True, text=True)


def test_what_is_kept_out_cannot_be_imported(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, json; print(sys.argv[1:], __name__)\nimport wave.inner\n")
    found = without("wave,onnx", str(script), "a", "b")
    assert found.stdout == "['a', 'b'] __main__\n"
    assert "ModuleNotFoundError: No module named 'wave' (kept out on purpose)" in found.stderr
    assert without("onnx", str(script)).stderr.count("'wave' is not a package") == 1


def test_sentences_are_ranked_by_meaning_without_the_compiler(tmp_path: Path, seed: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"w{index}" for index in range(ENCODER_WORDS)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = Text("tokenizer.json", {"ids": "ids", "mask": "mask"}, 64, 0, "embedding")
    path = write_encoder(tmp_path / "tiny.ingot", seed, text=text, tokenizer=tokenizer.to_str().encode())
    table = encoder_table(seed)
    expected = sorted(words[2:9], key=lambda word: -float(table[words.index(word)] @ table[1]))
    found = without(",".join(demo.KEPT_OUT), str(ROOT / "docs" / "examples" / "rank.py"), str(path), "w1", *words[2:9])
    assert found.stderr == ""
    assert [line.split()[1] for line in found.stdout.splitlines()] == expected
    scores = np.array([float(line.split()[0]) for line in found.stdout.splitlines()])
    assert np.all(np.diff(scores) <= 0)


def test_an_engine_is_current_until_its_model_or_the_compiler_changes(tmp_path: Path) -> None:
    model, engine = tmp_path / "model", tmp_path / "model.ingot"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert not minilm.is_current(engine, model)
    engine.write_bytes(b"")
    now = time.time()
    os.utime(engine, (now + 10, now + 10))
    assert minilm.is_current(engine, model)
    os.utime(model / "config.json", (now + 20, now + 20))
    assert not minilm.is_current(engine, model)
    os.utime(model / "config.json", (now, now))
    os.utime(engine, (1e9, 1e9))
    assert not minilm.is_current(engine, model)
