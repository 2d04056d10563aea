"""From raw text to embeddings: order, batches, cutting, prompts, and what is no text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import FormatError, InputError, RequirementError, UsageError
from ingot.models.handmade import TEXT_WORDS, encoder_table, write_encoder, write_text_encoder
from ingot.runtime import embedder as module
from ingot.runtime.embedder import Embedder
from ingot.runtime.open import open_engine

MAX_TOKENS = 12

pytest.importorskip("tokenizers")


@pytest.fixture
def path(tmp_path: Path, seed: int) -> Path:
    return write_text_encoder(tmp_path / "encoder.ingot", seed)


def reference(texts: list[str], seed: int) -> Any:
    """The mean of the embeddings of [CLS] and the words, one text at a time."""
    table = encoder_table(seed).astype(np.float64)
    ids = [
        [1, *(3 + TEXT_WORDS.index(word) if word in TEXT_WORDS else 2 for word in one.split())][:MAX_TOKENS]
        for one in texts
    ]
    return np.stack([table[row].mean(0) for row in ids])


def drawn(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(TEXT_WORDS, rng.integers(0, 30))) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 3, 32, 1000])
def test_gives_each_text_its_vector_whatever_the_batches(path: Path, seed: int, batch_size: int) -> None:
    texts = drawn(seed, 150)
    with Embedder(path, threads=1) as embedder:
        vectors = embedder.encode(texts, batch_size=batch_size)
    assert vectors.dtype == np.float32
    assert vectors.shape == (150, 8)
    assert np.allclose(vectors, reference(texts, seed), atol=1e-5)


def test_a_run_holds_few_tokens_and_little_padding(path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_RUN", 40)
    with Embedder(path, threads=1) as embedder:
        shapes, padding = [], []
        run = embedder.engine.run_named

        def watched(batch: dict[str, Any]) -> Any:
            shapes.append(batch["ids"].shape)
            padding.append(int((batch["mask"] == 0).sum()))
            return run(batch)

        monkeypatch.setattr(embedder.engine, "run_named", watched)
        embedder.encode(drawn(seed, 200), batch_size=16)
    assert all(rows * width <= 40 and rows <= 16 for rows, width in shapes)
    assert sum(padding) < 0.15 * sum(rows * width for rows, width in shapes)


def test_one_string_is_one_vector_and_none_are_no_rows(path: Path, seed: int) -> None:
    with Embedder(path) as embedder:
        assert embedder.encode("w1 w2").shape == (8,)
        assert embedder.encode([]).shape == (0, 8)
        assert embedder.encode([]).dtype == np.float32
        assert np.allclose(embedder.encode(iter(["w1 w2", ""])), reference(["w1 w2", ""], seed), atol=1e-5)
        assert embedder.dimension == 8
        assert embedder.max_tokens == MAX_TOKENS


def test_prompts_go_in_front(path: Path, tmp_path: Path, seed: int) -> None:
    with Embedder(path) as embedder:
        wanted = embedder.encode("w0 w1 w5")
        assert np.array_equal(embedder.encode("w5", prompt_name="query"), wanted)
        assert np.array_equal(embedder.encode("w5", prompt="w0 w1 "), wanted)
        assert not np.array_equal(embedder.encode("w5"), wanted)
        with pytest.raises(UsageError, match="no prompt 'other'; it has 'query', 'document'"):
            embedder.encode("w5", prompt_name="other")
        with pytest.raises(UsageError, match="both given"):
            embedder.encode("w5", prompt_name="query", prompt="x")
    by_default = write_text_encoder(tmp_path / "default.ingot", seed, default_prompt="query")
    with Embedder(by_default) as embedder:
        assert np.array_equal(embedder.encode("w5"), wanted)
        assert np.array_equal(embedder.encode("w0 w1 w5", prompt_name="document"), wanted)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a", 3], "text 1 is 3, a int"),
        ([None], "text 0 is None"),
        (b"bytes", "texts is bytes"),
        (7, "texts is int"),
        (["fine", "\ud800"], "text 1 holds half a surrogate pair"),
        ([["nested"]], "a list and no string"),
    ],
)
def test_what_is_no_text_is_refused(path: Path, texts: Any, said: str) -> None:
    with Embedder(path) as embedder, pytest.raises(InputError) as caught:
        embedder.encode(texts)
    assert said in caught.value.what


@pytest.mark.parametrize("batch_size", [0, True, "2"])
def test_a_batch_size_is_a_count(path: Path, batch_size: Any) -> None:
    with Embedder(path) as embedder, pytest.raises(UsageError, match="batch_size"):
        embedder.encode(["a"], batch_size=batch_size)


def test_an_engine_without_text_says_what_to_do(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match="carries no tokenizer") as caught:
        Embedder(write_encoder(tmp_path / "plain.ingot", seed))
    assert "ingot compile FOLDER" in (caught.value.fix or "")


def test_an_engine_that_was_given_stays_open(path: Path) -> None:
    with open_engine(path, threads=1) as engine:
        with Embedder(engine) as embedder:
            embedder.encode("w1")
        assert engine(np.ones((1, 2), int), np.ones((1, 2), int)).embedding.shape == (1, 8)
        with pytest.raises(UsageError, match="loaded already"):
            Embedder(engine, threads=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": "nothing"},
        {"inputs": {"ids": "ids"}},
        {"inputs": {"mask": "mask"}},
        {"inputs": {"ids": "ids", "mask": "other"}},
        {"default_prompt": "unknown"},
    ],
)
def test_text_settings_that_contradict_the_engine_are_format_errors(
    tmp_path: Path, seed: int, wrong: dict[str, Any]
) -> None:
    def write_and_open() -> None:
        Embedder(write_text_encoder(tmp_path / "wrong.ingot", seed, **wrong))

    # The writer refuses what the header alone shows to be wrong.
    with pytest.raises(FormatError):
        write_and_open()


def test_a_broken_tokenizer_is_a_format_error(tmp_path: Path, seed: int) -> None:
    for content in (b"", b"{}", b"\xff\xfe", json.dumps({"model": {"type": "Unknown"}}).encode()):
        path = write_text_encoder(tmp_path / "broken.ingot", seed, tokenizer=content)
        with pytest.raises(FormatError, match="tokenizer") as caught:
            Embedder(path)
        assert caught.value.where == str(path)
        assert caught.value.fix


def test_without_the_library_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RequirementError, match=r"ingot-compiler\[text\]"):
        Embedder(path)


def test_a_prompt_is_text_and_its_name_too(path: Path) -> None:
    wrong: Any = 3
    with Embedder(path) as embedder:
        with pytest.raises(InputError, match="prompt is 3, a int and no string"):
            embedder.encode(["a"], prompt=wrong)
        with pytest.raises(UsageError, match="no prompt"):
            embedder.encode(["a"], prompt_name=[wrong])  # type: ignore[arg-type]  # what is tested
