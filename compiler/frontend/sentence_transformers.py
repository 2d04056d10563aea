"""A sentence-transformers folder becomes a module from token ids to `sentence_embedding`, and its way from raw text."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.errors import SourceError
from ingot.frontend.checkpoint import BY_HAND, inside, read_checkpoint, read_config, read_json
from ingot.frontend.huggingface import architecture_class, base_class, load_weights, quiet_transformers
from ingot.frontend.source import Source, TextSource

if TYPE_CHECKING:
    import torch

OUTPUT = "sentence_embedding"

_TOKENIZER_OUTPUTS = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}

_UNBOUNDED_TOKENS = 2**31 - 1

_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Encoder-decoders that are read as their encoder alone."""

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

MODES = tuple(_OLD_MODES.values())
"""The ways of pooling that ingot.frontend.pooling computes."""


def from_folder(folder: Path) -> Source:
    """Reads modules.json and what it names. Raises SourceError for a module of another kind, a prompt that pooling
    leaves out, or a tokenizer without tokenizer.json."""
    # What reading can tell is told before seconds are spent on importing torch.
    steps = _steps(folder)
    settings = _optional_json(folder / "config_sentence_transformers.json")
    prompts, default_prompt = _prompts(folder, settings)
    modes = _pooling_modes(inside(folder, steps[1][1]), prompts)
    home = inside(folder, steps[0][1])
    transformer, notes = _transformer(home)
    from ingot.frontend.example_call import example_call, position_limit
    from ingot.frontend.pooling import Pooling, SentenceEncoder

    heads = [_HEADS[kind](inside(folder, path)) for kind, path in steps[2:]]
    module = SentenceEncoder(transformer, Pooling(*modes), heads)
    tokenizer = _tokenizer(home)
    call = example_call(transformer, home, types="token_type_ids" in tokenizer.model_input_names)
    text = _text(home, tokenizer, call.inputs, position_limit(transformer))
    return Source(
        name=folder.resolve().name,
        module=module.eval(),
        kwargs=dict(call.inputs),
        dynamic_shapes=call.dynamic_shapes,
        domains=call.domains,
        text=replace(text, prompts=prompts, default_prompt=default_prompt),
        warnings=notes,
        drawn=True,
    )


def _read_normalize(folder: Path) -> torch.nn.Module:
    from ingot.frontend.pooling import Normalize

    _only_embeddings(_optional_json(folder / "config.json"), folder)
    return Normalize()


def _read_dense(folder: Path) -> torch.nn.Module:
    """A linear layer and its activation, from config.json and model.safetensors."""
    import torch
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    _only_embeddings(config, folder)
    if config.get("use_residual"):
        raise SourceError("a Dense module with use_residual is not supported", where=str(folder / "config.json"))
    checkpoint = read_checkpoint(folder)
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = getattr(torch.nn, path.rpartition(".")[2], None)
    if not path.startswith("torch.nn.") or not (
        isinstance(activation, type) and issubclass(activation, torch.nn.Module)
    ):
        raise SourceError(
            f"the activation '{path}' is not one of torch.nn, and other code named by a folder is never run",
            where=str(folder / "config.json"),
        )
    try:
        linear = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        weights = {
            name.removeprefix("linear."): value.float() for name, value in load_file(checkpoint.files[0]).items()
        }
        linear.load_state_dict(weights)
        return torch.nn.Sequential(linear, activation())
    except (KeyError, TypeError, RuntimeError) as error:
        raise SourceError(f"config and weights of a Dense module disagree: {error}", where=str(folder)) from error


_HEADS: dict[str, Callable[[Path], torch.nn.Module]] = {"Normalize": _read_normalize, "Dense": _read_dense}


def _only_embeddings(config: dict[str, Any], folder: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, OUTPUT):
            raise SourceError(
                f"a module works on '{config[key]}', not on '{OUTPUT}'", where=str(folder / "config.json")
            )


def _steps(folder: Path) -> list[tuple[str, str]]:
    """(kind, path) of each module in modules.json, which must be Transformer, Pooling, and then any of the heads."""
    path = folder / "modules.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"modules.json is not a list of modules: {error!r:.200}", where=str(path)) from error
    steps = []
    for position, (name, home) in enumerate(modules):
        kind = name.rpartition(".")[2]
        allowed = ("Transformer",) if position == 0 else ("Pooling",) if position == 1 else tuple(_HEADS)
        if not name.startswith("sentence_transformers.") or kind not in allowed:
            raise SourceError(
                f"module {position} of modules.json is '{name}'; understood there: {', '.join(allowed)}",
                where=str(path),
                fix=BY_HAND,
            )
        steps.append((kind, home))
    if len(steps) < 2:
        raise SourceError("modules.json does not name a Transformer and a Pooling module", where=str(path))
    return steps


def _transformer(folder: Path) -> tuple[Any, list[str]]:
    said = _optional_json(folder / "sentence_bert_config.json")
    task = said.get("transformer_task", "feature-extraction")
    way = said.get("modality_config", {}).get("text", {})
    if task != "feature-extraction" or way.get("method_output_name", "last_hidden_state") != "last_hidden_state":
        raise SourceError(
            f"the transformer gives something else than token embeddings ({task}, {way})",
            where=str(folder / "sentence_bert_config.json"),
        )
    config = read_config(folder)
    checkpoint = read_checkpoint(folder)
    name = str((config.get("architectures") or [""])[0])
    with quiet_transformers() as transformers:
        if config.get("model_type") in _ENCODERS:
            model_class = architecture_class(transformers, folder, config, _ENCODERS[config["model_type"]])
        elif name.endswith("Model"):
            model_class = architecture_class(transformers, folder, config, name)
        else:
            model_class = base_class(transformers, folder, config)
        return load_weights(folder, model_class, checkpoint, pooler=False)


def _pooling_modes(folder: Path, prompts: dict[str, str]) -> tuple[str, ...]:
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode") or [mode for key, mode in _OLD_MODES.items() if config.get(key)] or "mean"
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise SourceError(
            f"pooling mode '{unknown[0]}' is not one of {', '.join(MODES)}", where=str(folder / "config.json")
        )
    if not config.get("include_prompt", True) and any(prompts.values()):
        raise SourceError(
            "pooling leaves out the prompt's tokens (include_prompt false); an engine cannot tell them from the text's",
            where=str(folder / "config.json"),
        )
    return modes


def _prompts(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    prompts = {str(name): text or "" for name, text in (settings.get("prompts") or {}).items()}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise SourceError(
            f"default_prompt_name '{default}' is not one of the prompts {', '.join(prompts) or '(none)'}",
            where=str(folder / "config_sentence_transformers.json"),
        )
    return prompts, default


def _tokenizer(folder: Path) -> Any:
    """The tokenizer as transformers makes it, which may differ from tokenizer.json where tokenizer_config.json does."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise SourceError(
            "tokenizer.json is missing",
            where=str(folder),
            fix=f'python -c "from transformers import AutoTokenizer as A; '
            f"A.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        )
    with quiet_transformers() as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # a damaged tokenizer.json reaches a library that raises nothing narrower
            said = str(error).strip().partition("\n")[0]
            raise SourceError(f"the tokenizer is not readable: {said}", where=str(path)) from error
    if tokenizer.pad_token_id is None:
        raise SourceError(
            "the tokenizer has no padding token",
            where=str(folder / "tokenizer_config.json"),
            fix='"pad_token": one of its tokens',
        )
    return tokenizer


def _text(folder: Path, tokenizer: Any, inputs: Collection[str], limit: int | None) -> TextSource:
    """What an engine needs of the tokenizer; truncation and padding are the engine's own."""
    said = _optional_json(folder / "sentence_bert_config.json")
    max_tokens = said.get("max_seq_length") or tokenizer.model_max_length
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if said.get("do_lower_case"):
        from tokenizers import normalizers

        parts = [normalizers.Lowercase(), *filter(None, [backend.normalizer])]
        backend.normalizer = normalizers.Sequence(parts)
    return TextSource(
        tokenizer_json=backend.to_str().encode(),
        inputs={key: name for key, name in _TOKENIZER_OUTPUTS.items() if name in inputs},
        max_tokens=int(min(max_tokens, limit or _UNBOUNDED_TOKENS, _UNBOUNDED_TOKENS)),
        pad_id=int(tokenizer.pad_token_id),
        output=OUTPUT,
    )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
