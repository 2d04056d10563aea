"""sentence-transformers folders against the package itself: pooling, heads, tokenizer, prompts, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ingot.errors import SourceError
from ingot.frontend.pooling import POOLINGS, Pooling
from ingot.frontend.sentence_transformers import MODES
from ingot.frontend.source import Source, resolve

pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sky", "is", "blue", "the", "a", "query", ":", "Blue", "##s"]
TEXTS = ["", "Sky", "the sky is blue", "The SKY is Blues a a a", "the " * 50]
STYLES = [(mode,) for mode in POOLINGS] + [("cls", "mean", "max")]

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, seed: int) -> Build:
    """Saves a tiny random BERT with the given heads by sentence-transformers itself, and gives the folder."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer import modules as models
    from transformers import BertConfig, BertModel, BertTokenizer

    def build_folder(*heads: Any, modes: Any = "mean", **options: Any) -> Path:
        home = tmp_path / "bert"
        home.mkdir()
        (home / "vocab.txt").write_text("\n".join(WORDS))
        BertTokenizer(str(home / "vocab.txt"), do_lower_case=False, strip_accents=False).save_pretrained(home)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = BertConfig(
                vocab_size=len(WORDS),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=24,
                max_position_embeddings=30,
            )
            BertModel(config).save_pretrained(home)
        transformer = models.Transformer(str(home), max_seq_length=24)
        pooling = models.Pooling(16, pooling_mode=modes)
        folder = tmp_path / "sentences"
        built = sentence_transformers.SentenceTransformer(
            modules=[transformer, pooling, *heads], device="cpu", **options
        )
        built.save_pretrained(str(folder), create_model_card=False)
        return folder

    return build_folder


def embed(source: Source, texts: list[str], prompt: str = "") -> np.ndarray[Any, Any]:
    """From raw text with nothing but what the source says."""
    text = source.text
    assert text is not None
    tokenizer = tokenizers.Tokenizer.from_str(text.tokenizer_json.decode())
    tokenizer.enable_truncation(text.max_tokens)
    tokenizer.enable_padding(pad_id=text.pad_id)
    encoded = tokenizer.encode_batch([prompt + item for item in texts])
    lists = {
        "ids": [item.ids for item in encoded],
        "mask": [item.attention_mask for item in encoded],
        "types": [item.type_ids for item in encoded],
    }
    inputs = {name: torch.tensor(lists[key]) for key, name in text.inputs.items()}
    with torch.no_grad():
        result = source.module(**inputs)
    assert list(result) == [text.output]
    return np.asarray(result[text.output])


def reference(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def close(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_the_real_minilm_from_raw_text(minilm_folder: Path) -> None:
    source = resolve(minilm_folder)
    texts = [*TEXTS, "Ärger über naïve Fälle — 東京 🙂", "Who wrote it?\n\tNobody.", "word " * 400]
    close(embed(source, texts), reference(minilm_folder).encode(texts))
    assert source.text is not None
    assert source.text.max_tokens == 256
    assert source.dynamic_shapes["input_ids"][1].max == 512
    assert source.warnings == []
    assert not [name for name, _ in source.module.named_parameters() if "pooler" in name]


def test_every_mode_that_is_read_is_computed() -> None:
    assert set(MODES) == set(POOLINGS)


@pytest.mark.parametrize("modes", STYLES, ids="+".join)
@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_is_that_of_the_package(modes: tuple[str, ...], side: str, seed: int) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling as Theirs

    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(4, 7, 5, generator=random)
    lengths = torch.tensor([7, 1, 4, 6])
    mask = (torch.arange(7) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    wanted = Theirs(5, pooling_mode=modes)({"token_embeddings": tokens, "attention_mask": mask})
    close(Pooling(*modes)(tokens, mask).numpy(), wanted["sentence_embedding"].numpy())


def test_normalised_embeddings_with_lower_casing_and_prompts(build: Build) -> None:
    from sentence_transformers.sentence_transformer import modules as models

    folder = build(models.Normalize(), prompts={"query": "Query: "}, default_prompt_name="query")
    edit(folder / "sentence_bert_config.json", do_lower_case=True, max_seq_length=20)
    source, wanted = resolve(folder), reference(folder)
    assert source.text is not None
    assert source.text.default_prompt == "query"
    assert source.text.prompts["query"] == "Query: "
    assert source.text.max_tokens == 20
    assert source.text.pad_id == 0
    got = embed(source, TEXTS, "Query: ")
    close(got, wanted.encode(TEXTS))
    assert np.abs(got - embed(source, TEXTS)).max() > 1e-3
    close(np.linalg.norm(got, axis=1), np.ones(len(TEXTS)))


def test_dense_and_several_pooling_modes(build: Build) -> None:
    from sentence_transformers.sentence_transformer import modules as models

    head = models.Dense(32, 6, activation_function=torch.nn.ReLU())
    linear = models.Dense(6, 3, bias=False, activation_function=torch.nn.Identity())
    folder = build(head, linear, models.Normalize(), modes=("cls", "weightedmean"))
    close(embed(resolve(folder), TEXTS), reference(folder).encode(TEXTS))


def test_the_older_form_of_the_pooling_config(build: Build) -> None:
    folder = build()
    config = folder / "1_Pooling" / "config.json"
    old = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False}
    for key in ("pooling_mode_max_tokens", "pooling_mode_lasttoken"):
        config.write_text(json.dumps({**old, key: True}))
        close(embed(resolve(folder), TEXTS), reference(folder).encode(TEXTS))


def test_a_model_saved_with_a_head_is_read_without_it(build: Build) -> None:
    from transformers import BertForMaskedLM

    folder = build()
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    close(embed(resolve(folder), TEXTS), reference(folder).encode(TEXTS))


def test_an_encoder_decoder_is_read_as_its_encoder(build: Build) -> None:
    from transformers import T5Config, T5EncoderModel

    folder = build()
    config = T5Config(vocab_size=len(WORDS), d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=24)
    T5EncoderModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "TokenizersBackend", "pad_token": "[PAD]"})
    )
    source = resolve(folder)
    assert list(source.kwargs) == ["input_ids", "attention_mask"]
    assert source.text is not None
    assert source.text.max_tokens == 2**31 - 1
    close(embed(source, TEXTS), reference(folder).encode(TEXTS))


def refusal(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        resolve(folder)
    return str(caught.value)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_modules_that_are_not_understood(build: Build) -> None:
    folder = build()
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    for kind in ("custom_code.Shift", "sentence_transformers.models.LSTM", "sentence_transformers.models.Transformer"):
        path.write_text(json.dumps([*modules, {"idx": 2, "name": "2", "path": "2_Shift", "type": kind}]))
        assert f"module 2 of modules.json is '{kind}'" in refusal(folder)
    path.write_text(json.dumps(modules[:1]))
    assert "does not name a Transformer and a Pooling" in refusal(folder)
    path.write_text(json.dumps([modules[0], {**modules[1], "path": "../1_Pooling"}]))
    assert "a part outside itself" in refusal(folder)
    path.write_text("{")
    assert "modules.json is not a list of modules" in refusal(folder)


def test_settings_that_an_engine_cannot_honour(build: Build) -> None:
    folder = build(prompts={"query": "Query: "})
    pooling = folder / "1_Pooling" / "config.json"
    edit(pooling, include_prompt=False)
    assert "include_prompt" in refusal(folder)
    edit(pooling, include_prompt=True, pooling_mode="median")
    assert "pooling mode 'median'" in refusal(folder)
    edit(pooling, pooling_mode="mean")
    edit(folder / "config_sentence_transformers.json", default_prompt_name="passage")
    assert "default_prompt_name 'passage'" in refusal(folder)
    edit(folder / "config_sentence_transformers.json", default_prompt_name=None)
    edit(folder / "sentence_bert_config.json", transformer_task="fill-mask")
    assert "fill-mask" in refusal(folder)


def test_heads_that_are_not_whole(build: Build) -> None:
    from sentence_transformers.sentence_transformer import modules as models

    folder = build(models.Dense(16, 4))
    config = folder / "2_Dense" / "config.json"
    said = config.read_text()
    edit(config, out_features=5)
    assert "config and weights of a Dense module disagree" in refusal(folder)
    config.write_text(said)
    for activation in ("my_code.Activation", "torch.nn.functional.relu", "torch.nn.Parameter"):
        edit(config, activation_function=activation)
        assert f"the activation '{activation}' is not one of torch.nn" in refusal(folder)
    config.write_text(said)
    edit(config, module_input_name="token_embeddings")
    assert "works on 'token_embeddings'" in refusal(folder)
    config.write_text(said)
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "there is no model.safetensors" in refusal(folder)


def test_tokenizers_that_cannot_be_read(build: Build) -> None:
    folder = build()
    path = folder / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[:200])
    assert "the tokenizer is not readable" in refusal(folder)
    path.write_text("{}")
    assert "the tokenizer is not readable" in refusal(folder)
    path.unlink()
    assert "AutoTokenizer" in refusal(folder)
    path.write_text(whole)
    edit(folder / "tokenizer_config.json", pad_token=None)
    assert "no padding token" in refusal(folder)


def test_inputs_of_the_caller_change_what_text_feeds(build: Build) -> None:
    ids = torch.ones(2, 5, dtype=torch.int64)
    source = resolve(build(), {"input_ids": ids, "attention_mask": ids})
    assert source.text is not None
    assert source.text.inputs == {"ids": "input_ids", "mask": "attention_mask"}
