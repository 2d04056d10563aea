"""A Hugging Face folder becomes a module with example inputs: task, shapes, bounds and domains from its config.

The network is never asked and the folder's own Python code is never run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ingot.errors import SourceError, UsageError
from ingot.frontend.checkpoint import Checkpoint, listed, read_checkpoint, read_json
from ingot.frontend.source import Source
from ingot.signature import Domain

BATCH = 2
SEQUENCE = 16
PADDING = 3
"""Sizes of the example inputs, and how many positions at the end of the second row are padding."""

TASKS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForCausalLM",
    "ForImageClassification",
    "ForConditionalGeneration",
)
"""How the name of an architecture may end."""

_BY_HAND = "package.module:name, for a function that returns (model, example_inputs)"


@dataclass(slots=True)
class Call:
    """Example inputs by forward's parameter names, their dims in torch.export's form, and what they may hold."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    dynamic_shapes: dict[str, dict[int, Any]] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)

    def add(self, name: str, value: torch.Tensor, axes: dict[int, Any], domain: Domain | None = None) -> None:
        self.inputs[name] = value
        self.dynamic_shapes[name] = axes
        if domain is not None:
            self.domains[name] = domain


def from_folder(folder: Path) -> Source:
    """Loads the model of `config.json`'s first architecture in float32, with its cache off.

    Raises SourceError where config and weights are missing, cut short or disagree, UsageError where transformers is
    not installed.
    """
    config = read_config(folder)
    checkpoint = read_checkpoint(folder)
    with quiet_transformers() as transformers:
        module, notes = load_weights(folder, _model_class(transformers, folder, config), checkpoint)
    call = example_call(module, folder, types=_tokenizer_gives_types(folder))
    return Source(
        name=folder.resolve().name,
        module=module,
        kwargs=dict(call.inputs),
        dynamic_shapes=call.dynamic_shapes,
        domains=call.domains,
        warnings=notes,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as data. Raises SourceError where it cannot be read or asks for quantised weights."""
    if not (folder / "config.json").is_file():
        raise SourceError(
            "config.json is missing, so this is not a Hugging Face folder",
            where=str(folder),
            fix="model.save_pretrained(folder) writes it; a download may have been cut short",
        )
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        method = dict(config["quantization_config"]).get("quant_method", "an unnamed method")
        raise SourceError(
            f"the weights are quantised ({method}); this version reads float32, float16 and bfloat16",
            where=str(folder / "config.json"),
            fix="compile the checkpoint that it was quantised from",
        )
    return config


@contextlib.contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The package `transformers` without its log, progress bars and warnings; its settings are put back."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers: Any = importlib.import_module("transformers")
            log = importlib.import_module("transformers.utils.logging")
    except ImportError as error:
        raise UsageError(
            f"reading a Hugging Face folder takes the package transformers: {error}",
            fix="pip install 'ingot-compiler[hf]'",
        ) from error
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.set_verbosity(log.CRITICAL)
        log.disable_progress_bar()
        try:
            yield transformers
        finally:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def architecture_class(transformers: Any, folder: Path, config: dict[str, Any], name: str) -> Any:
    """The class of that name. Raises SourceError where transformers has none, without running code of the folder."""
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if config.get("auto_map"):
        raise SourceError(
            f"'{name}' is defined by Python code in the folder (auto_map), which is never run",
            where=str(folder / "config.json"),
            fix=f"{_BY_HAND}; there the code is yours to trust",
        )
    raise SourceError(
        f"transformers {transformers.__version__} has no model '{name}'",
        where=str(folder / "config.json"),
        fix=f"pip install --upgrade transformers, or {_BY_HAND}",
    )


def base_class(transformers: Any, folder: Path, config: dict[str, Any]) -> Any:
    """The class without a head for the config's model_type. Raises SourceError where there is none."""
    model_type = config.get("model_type")
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    names = auto.MODEL_MAPPING_NAMES
    name = names.get(model_type)
    if not isinstance(name, str):
        raise SourceError(
            f"transformers {transformers.__version__} has no model for model_type {model_type!r}",
            where=str(folder / "config.json"),
            fix=f"name the class in its 'architectures', or {_BY_HAND}",
        )
    return architecture_class(transformers, folder, config, name)


def _model_class(transformers: Any, folder: Path, config: dict[str, Any]) -> Any:
    architectures = config.get("architectures")
    if not architectures:
        return base_class(transformers, folder, config)
    name = str(architectures[0])
    if not name.endswith(TASKS):
        raise SourceError(
            f"the task of '{name}' is not known; an architecture ends in {', '.join(TASKS)}",
            where=str(folder / "config.json"),
            fix=_BY_HAND,
        )
    return architecture_class(transformers, folder, config, name)


def load_weights(
    folder: Path, model_class: Any, checkpoint: Checkpoint, *, pooler: bool = True
) -> tuple[Any, list[str]]:
    """The module with the checkpoint's weights in float32, and what is worth saying about them.

    A pooling layer is left out when it is not wanted or has no weights. Raises SourceError naming every tensor that
    is missing, or whose shape is not what the config says.
    """
    where = str(folder)
    options = {}
    without_pooler = not pooler or not any("pooler." in name for name in checkpoint.tensors)
    if without_pooler and "add_pooling_layer" in inspect.signature(model_class).parameters:
        options["add_pooling_layer"] = False
    try:
        module, report = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a config of any content reaches the model's own code, which may raise anything
        said = str(error).strip().partition("\n")[0]
        raise SourceError(
            f"transformers cannot build {model_class.__name__} from config.json: {type(error).__name__}: {said}",
            where=where,
            fix="compare config.json with the original model's",
        ) from error
    _refuse_disagreement(model_class.__name__, report, where)
    for child in module.modules():
        if getattr(getattr(child, "config", None), "use_cache", False):
            child.config.use_cache = False
    left_out = "pooler." if options else None
    unexpected = sorted(name for name in report["unexpected_keys"] if left_out is None or left_out not in name)
    return module, _notes(model_class, checkpoint, unexpected)


def _refuse_disagreement(name: str, report: dict[str, Any], where: str) -> None:
    wrong = sorted(
        f"{tensor} {list(stored)} (config: {list(wanted)})" for tensor, stored, wanted in report["mismatched_keys"]
    )
    if wrong:
        raise SourceError(
            f"config and weights disagree about {len(wrong)} shape{'s' if len(wrong) > 1 else ''}: {listed(wrong)}",
            where=where,
            fix="config.json belongs to another checkpoint: take both from one",
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise SourceError(
            f"the weights lack {len(missing)} of {name}'s tensors: {listed(missing)}",
            where=where,
            fix="take the whole checkpoint, or the class it was saved from in config.json's 'architectures'",
        )


def _notes(model_class: Any, checkpoint: Checkpoint, unexpected: list[str]) -> list[str]:
    notes = []
    if unexpected:
        notes.append(f"{model_class.__name__} does not use {len(unexpected)} of the weights: {listed(unexpected)}")
    half = sorted({dtype for dtype, _ in checkpoint.tensors.values()} & {"F16", "BF16"})
    if half:
        notes.append(f"weights stored as {' and '.join(half)} are compiled in float32")
    return notes


def example_call(module: Any, folder: Path, *, types: bool) -> Call:
    """Seeded example inputs for one call, from the model's config; `types`: whether its tokenizer gives token types.

    Raises SourceError for inputs of another kind.
    """
    parameters = inspect.signature(module.forward).parameters
    main = str(module.main_input_name)
    both = "pixel_values" in parameters and "input_ids" in parameters
    if both or main not in ("input_ids", "pixel_values", "input_features"):
        takes = "input_ids and pixel_values" if both else main
        raise SourceError(
            f"example inputs for {type(module).__name__} ({takes}) cannot be made from its config",
            where=str(folder),
            fix=_BY_HAND,
        )
    call = Call()
    random = torch.Generator().manual_seed(0)
    batch = torch.export.Dim("batch")
    if main == "pixel_values":
        channels = int(getattr(module.config, "num_channels", 3))
        shape = (BATCH, channels, *_image_size(module.config, folder))
        call.add("pixel_values", torch.randn(shape, generator=random), {0: batch})
    elif main == "input_features":
        frames = (BATCH, module.config.num_mel_bins, 2 * module.config.max_source_positions)
        call.add("input_features", torch.randn(frames, generator=random), {0: batch})
    else:
        _add_text(call, module, types, random, batch)
    if "decoder_input_ids" in parameters:
        limit = getattr(module.config, "max_target_positions", None) or position_limit(module)
        axes = {0: batch, 1: torch.export.Dim("decoder_sequence", max=limit)}
        length = min(SEQUENCE // 2, limit or SEQUENCE)
        vocabulary = module.config.vocab_size
        ids = torch.randint(0, vocabulary, (BATCH, length), generator=random)
        call.add("decoder_input_ids", ids, axes, Domain(0, vocabulary - 1))
    return call


def _add_text(call: Call, module: Any, types: bool, random: torch.Generator, batch: Any) -> None:
    parameters = inspect.signature(module.forward).parameters
    config = module.config
    limit = position_limit(module)
    axes = {0: batch, 1: torch.export.Dim("sequence", max=limit)}
    shape = (BATCH, min(SEQUENCE, limit or SEQUENCE))
    ids = torch.randint(0, config.vocab_size, shape, generator=random)
    # An all-ones mask would vanish while tracing, and padded batches would come out wrong.
    mask = torch.ones(shape, dtype=torch.int64)
    mask[1, -PADDING:] = 0
    ids[mask == 0] = config.pad_token_id or 0
    call.add("input_ids", ids, axes, Domain(0, config.vocab_size - 1))
    if "attention_mask" in parameters:
        call.add("attention_mask", mask, axes, Domain(0, 1, "mask"))
    kinds = getattr(config, "type_vocab_size", None) or 0
    if types and kinds > 1 and "token_type_ids" in parameters:
        values = torch.randint(0, kinds, shape, generator=random)
        call.add("token_type_ids", values, axes, Domain(0, kinds - 1))


def _tokenizer_gives_types(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    names = read_json(path).get("model_input_names") if path.is_file() else None
    return names is None or "token_type_ids" in names


def position_limit(module: Any) -> int | None:
    """The longest sequence that the model has positions for; None where positions are not numbered."""
    limit = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for name, child in module.named_modules():
        table = isinstance(child, torch.nn.Embedding) and name.endswith("position_embeddings")
        if table and child.padding_idx is not None:
            # RoBERTa's family numbers positions from padding_idx + 1 on.
            return limit - int(child.padding_idx) - 1
    return limit


def _image_size(config: Any, folder: Path) -> tuple[int, int]:
    size = getattr(config, "image_size", None)
    path = folder / "preprocessor_config.json"
    if size is None and path.is_file():
        said = read_json(path)
        size = said.get("crop_size") or said.get("size")
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    if size is None:
        raise SourceError(
            "neither config.json (image_size) nor preprocessor_config.json (size) says how large an image is",
            where=str(folder),
            fix="--inputs FILE.npz with pixel_values",
        )
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
