"""Tiny random models saved as Hugging Face folders: their inputs, bounds and domains, and folders that are damaged."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ingot.errors import SourceError, UsageError
from ingot.frontend.source import Source, resolve
from ingot.signature import Domain

transformers = pytest.importorskip("transformers")

TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BERT = {**TEXT, "max_position_embeddings": 40}
LLAMA = {**BERT, "num_key_value_heads": 2, "pad_token_id": 0}
VIT = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {"image_size": 32, "patch_size": 8}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 12, "bos_token_id": 1}
T5 = {"vocab_size": 99, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64}
WHISPER = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 10,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WAV2VEC2 = {
    **{key: value for key, value in TEXT.items() if key != "vocab_size"},
    "vocab_size": 32,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}

IDS_AND_MASK = {"input_ids": Domain(0, 98), "attention_mask": Domain(0, 1, "mask")}
BERT_INPUTS = {**IDS_AND_MASK, "token_type_ids": Domain(0, 1)}
DECODER = {"decoder_input_ids": Domain(0, 98)}

Case = tuple[str, Mapping[str, Any], Mapping[str, Domain | None], Mapping[str, int | None], list[str]]

CASES: dict[str, Case] = {
    # architecture: config class, its values, inputs with domains, dims with bounds, names of the outputs
    "BertModel": ("BertConfig", BERT, BERT_INPUTS, {"sequence": 40}, ["last_hidden_state", "pooler_output"]),
    "BertForSequenceClassification": ("BertConfig", BERT, BERT_INPUTS, {"sequence": 40}, ["logits"]),
    "BertForTokenClassification": ("BertConfig", BERT, BERT_INPUTS, {"sequence": 40}, ["logits"]),
    "BertForMaskedLM": ("BertConfig", BERT, BERT_INPUTS, {"sequence": 40}, ["logits"]),
    "BertForQuestionAnswering": ("BertConfig", BERT, BERT_INPUTS, {"sequence": 40}, ["start_logits", "end_logits"]),
    "RobertaForMaskedLM": (
        "RobertaConfig",
        {**BERT, "type_vocab_size": 1, "pad_token_id": 1},
        IDS_AND_MASK,
        {"sequence": 38},
        ["logits"],
    ),
    "GPT2LMHeadModel": ("GPT2Config", GPT2, IDS_AND_MASK, {"sequence": 12}, ["logits"]),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, IDS_AND_MASK, {"sequence": 40}, ["logits"]),
    "T5ForConditionalGeneration": (
        "T5Config",
        T5,
        {**IDS_AND_MASK, **DECODER},
        {"sequence": None, "decoder_sequence": None},
        ["logits", "encoder_last_hidden_state"],
    ),
    "ViTForImageClassification": ("ViTConfig", VIT, {"pixel_values": None}, {}, ["logits"]),
    "Wav2Vec2ForCTC": (
        "Wav2Vec2Config",
        WAV2VEC2,
        {"input_values": None, "attention_mask": Domain(0, 1, "mask")},
        {"samples": None},
        ["logits"],
    ),
    "BartForConditionalGeneration": (
        "BartConfig",
        {key: value for key, value in WHISPER.items() if "positions" not in key} | {"max_position_embeddings": 24},
        {**IDS_AND_MASK, **DECODER},
        {"sequence": 24, "decoder_sequence": 24},
        ["logits", "encoder_last_hidden_state"],
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        WHISPER,
        {"input_features": None, **DECODER},
        {"decoder_sequence": 20},
        ["logits", "encoder_last_hidden_state"],
    ),
}

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path, seed: int) -> Iterator[Save]:
    """Saves a random model of an architecture in CASES and gives its folder."""
    log = transformers.utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()

    def save_model(architecture: str) -> Path:
        config, values, *_ = CASES[architecture]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, architecture)(getattr(transformers, config)(**values))
        folder = tmp_path / architecture
        model.save_pretrained(folder)
        return folder

    yield save_model
    log.set_verbosity(verbosity)


def run(source: Source) -> Any:
    with torch.no_grad():
        return source.module(*source.args, **source.kwargs)


def edit(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("architecture", CASES)
def test_a_folder_gives_module_inputs_bounds_and_domains(architecture: str, save: Save) -> None:
    _, _, inputs, bounds, outputs = CASES[architecture]
    folder = save(architecture)
    source = resolve(str(folder))
    assert type(source.module).__name__ == architecture
    assert source.name == architecture
    assert source.warnings == []
    assert {name: source.domains.get(name) for name in source.kwargs} == inputs
    dims = {dim.__name__: dim for axes in source.dynamic_shapes.values() for dim in axes.values()}
    assert set(dims) == {"batch", *bounds}
    for name, limit in bounds.items():
        assert dims[name].max == (limit if limit is not None else torch.export.Dim("free").max)
    for name, value in source.kwargs.items():
        domain = inputs[name]
        assert value.shape[0] == 2
        assert domain is None or (domain.low <= int(value.min()) and int(value.max()) <= domain.high)
    assert list(run(source)) == outputs
    loaded = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, value in source.module.state_dict().items():
        assert torch.equal(value, loaded[name])


def test_the_mask_has_padding_at_the_end_of_a_row(save: Save) -> None:
    mask = resolve(save("BertModel")).kwargs["attention_mask"]
    assert mask[0].all()
    assert mask[1, 0] == 1
    assert mask[1, -1] == 0


def test_the_longest_declared_sequence_runs(save: Save) -> None:
    for architecture in ("RobertaForMaskedLM", "GPT2LMHeadModel"):
        source = resolve(save(architecture))
        limit = source.dynamic_shapes["input_ids"][1].max
        ids = torch.full((2, limit), 5)
        assert source.module(input_ids=ids).logits.shape == (2, limit, 99)
        with pytest.raises((IndexError, RuntimeError)):
            source.module(input_ids=torch.full((2, limit + 1), 5))


def test_image_size_comes_from_the_preprocessor_where_the_config_has_none(tmp_path: Path, save: Save) -> None:
    folder = tmp_path / "resnet"
    config = transformers.ResNetConfig(**RESNET)
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    with pytest.raises(SourceError, match="how large an image is"):
        resolve(folder)
    for said in ({"size": {"height": 48, "width": 64}}, {"crop_size": [48, 64], "size": {"shortest_edge": 99}}):
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
        source = resolve(folder)
        assert source.kwargs["pixel_values"].shape == (2, 3, 48, 64)
        assert run(source).logits.shape == (2, 2)


def test_a_tokenizer_without_types_gives_a_model_without_them(save: Save) -> None:
    folder = save("BertModel")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_input_names": ["input_ids", "attention_mask"]}))
    assert list(resolve(folder).kwargs) == ["input_ids", "attention_mask"]


def test_examples_of_the_caller_keep_the_bounds(save: Save) -> None:
    ids = torch.ones((3, 5), dtype=torch.int64)
    source = resolve(save("BertModel"), {"input_ids": ids})
    assert list(source.kwargs) == ["input_ids"]
    assert list(source.dynamic_shapes) == ["input_ids"]
    assert source.dynamic_shapes["input_ids"][1].max == 40
    assert resolve(save("BertModel"), ids).args == (ids,)
    assert resolve(save("BertModel"), {"input_ids": ids, "position_ids": ids}).dynamic_shapes is None
    with pytest.raises(UsageError, match="did you mean input_ids"):
        resolve(save("BertModel"), {"input_idz": ids})
    with pytest.raises(UsageError, match="takes 9 inputs"):
        resolve(save("BertModel"), (ids,) * 10)


def test_the_class_without_a_head_where_no_architecture_is_named(save: Save) -> None:
    folder = save("BertForSequenceClassification")
    edit(folder, architectures=None)
    source = resolve(folder)
    assert type(source.module).__name__ == "BertModel"
    assert "pooler_output" in run(source)
    assert any("classifier.weight" in warning for warning in source.warnings)


def test_a_pooler_without_weights_is_left_out(save: Save) -> None:
    folder = save("BertForMaskedLM")
    edit(folder, architectures=["BertModel"])
    assert list(run(resolve(folder))) == ["last_hidden_state"]


def test_half_precision_weights_are_computed_in_float32(save: Save) -> None:
    folder = save("BertModel")
    transformers.BertModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    source = resolve(folder)
    assert {value.dtype for value in source.module.parameters()} == {torch.float32}
    assert any("BF16" in warning for warning in source.warnings)


def test_nothing_is_asked_of_the_network(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save("GPT2LMHeadModel")
    (folder / "generation_config.json").unlink()

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert run(resolve(folder)).logits.shape == (2, 12, 99)


def test_the_settings_of_transformers_are_put_back(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save("BertForSequenceClassification")
    edit(folder, architectures=["BertModel"])
    log = transformers.utils.logging
    log.set_verbosity_info()
    bars = log.is_progress_bar_enabled()
    capfd.readouterr()
    resolve(folder)
    assert log.get_verbosity() == log.INFO
    assert log.is_progress_bar_enabled() == bars
    assert capfd.readouterr() == ("", "")


def test_without_transformers_the_extra_is_named(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save("BertModel")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"ingot-compiler\[hf\]"):
        resolve(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        resolve(folder)
    return str(caught.value)


def test_config_that_cannot_be_read(save: Save) -> None:
    folder = save("BertModel")
    for content, said in [
        (b"", "config.json is not JSON"),
        (b'{"architectures": [', "config.json is not JSON"),
        (b"\xff\xfe", "config.json cannot be read"),
        (b"[]", "holds a list"),
        (b"{}", "model_type None"),
        (b'{"model_type": "no_such_kind"}', "model_type 'no_such_kind'"),
    ]:
        (folder / "config.json").write_bytes(content)
        assert said in refusal(folder)
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)


def test_config_that_asks_for_what_is_not_there(save: Save) -> None:
    folder = save("BertModel")
    edit(folder, architectures=["MadeUpModel"])
    assert "has no model 'MadeUpModel'" in refusal(folder)
    edit(folder, architectures=["BertTokenizerModel"], auto_map={"AutoModel": "code.BertTokenizerModel"})
    assert "Python code in the folder" in refusal(folder)
    edit(folder, architectures=["BertForFortuneTelling"], auto_map=None)
    assert "task of 'BertForFortuneTelling' is not known" in refusal(folder)
    edit(folder, architectures=["BertModel"], quantization_config={"quant_method": "awq"})
    assert "quantised (awq)" in refusal(folder)
    edit(folder, quantization_config=None, hidden_size="wide")
    assert "cannot build BertModel from config.json" in refusal(folder)


def test_config_and_weights_that_disagree(save: Save) -> None:
    folder = save("BertModel")
    edit(folder, intermediate_size=48)
    said = refusal(folder)
    assert "encoder.layer.0.intermediate.dense.weight [64, 32] (config: [48, 32])" in said
    edit(folder, intermediate_size=64, num_hidden_layers=3)
    assert "lack 16 of BertModel's tensors: encoder.layer.2." in refusal(folder)
    edit(folder, num_hidden_layers=1)
    assert "the number of layers; beyond those of the config: encoder.layer.1." in refusal(folder)
    headed = save("BertForMaskedLM")
    edit(headed, num_hidden_layers=1)
    assert "beyond those of the config: bert.encoder.layer.1." in refusal(headed)
    edit(headed, architectures=["BertModel"])
    assert "beyond those of the config: bert.encoder.layer.1." in refusal(headed)


def test_weights_that_are_not_whole(save: Save) -> None:
    folder = save("BertModel")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        said = refusal(folder)
        assert "model.safetensors is cut short" in said
        assert f"{size} bytes" in said
    assert f"promises {len(whole)}" in said
    file.write_bytes(whole + b"more")
    assert f"{len(whole) + 4} bytes, where its header promises {len(whole)}" in refusal(folder)
    file.write_bytes(whole[:8] + b"{" * 10 + whole[18:])
    assert "is not a safetensors file" in refusal(folder)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS pointer" in refusal(folder)
    file.unlink()
    assert "there is no model.safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    assert "the weights are pickled (pytorch_model.bin)" in refusal(folder)


def test_weights_in_shards(save: Save) -> None:
    folder = save("BertModel")
    whole = resolve(folder).module.state_dict()
    (folder / "model.safetensors").unlink()
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(folder, max_shard_size="40KB")
    assert not (folder / "model.safetensors").exists()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert set(resolve(folder).module.state_dict()) == set(whole)
    shards[-1].unlink()
    assert f"there is no {shards[-1].name}" in refusal(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["pooler.dense.bias"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "a part outside itself" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "no 'weight_map'" in refusal(folder)


def test_inputs_that_a_config_cannot_tell(tmp_path: Path, save: Save) -> None:
    vision = {**VIT, "num_channels": 3}
    config = transformers.CLIPConfig(
        text_config={**TEXT, "max_position_embeddings": 16, "projection_dim": 8},
        vision_config={**vision, "projection_dim": 8},
        projection_dim=8,
    )
    folder = tmp_path / "clip"
    transformers.CLIPModel(config).save_pretrained(folder)
    assert "input_ids and pixel_values" in refusal(folder)


def test_a_wrong_folder_is_told_without_importing_torch(save: Save) -> None:
    folder = save("BertModel")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    code = (
        "import sys; from ingot.errors import SourceError; from ingot.frontend.source import resolve\n"
        "try: resolve(sys.argv[1])\n"
        "except SourceError as error: print(error.what, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    assert "is cut short" in said
    assert said.strip().endswith("False")
