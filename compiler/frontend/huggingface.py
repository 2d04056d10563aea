"""A Hugging Face folder becomes a module with example inputs: task, shapes, bounds and domains from its config.

The network is never asked and the folder's own Python code is never run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ingot.errors import SourceError, UsageError
from ingot.frontend.checkpoint import BY_HAND, Checkpoint, listed, read_checkpoint, read_config, read_json
from ingot.frontend.source import Source

TASKS = (
    "Model",
    "ModelWithProjection",
    "Encoder",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForNextSentencePrediction",
    "ForMaskedLM",
    "ForCausalLM",
    "ForImageClassification",
    "ForSemanticSegmentation",
    "ForDepthEstimation",
    "ForCTC",
    "ForConditionalGeneration",
)
"""How the name of an architecture may end: those whose inputs follow from the config."""


def from_folder(folder: Path) -> Source:
    """Loads the model of `config.json`'s first architecture in float32, with its cache off.

    Raises SourceError where config and weights are missing, cut short or disagree, UsageError where transformers is
    not installed.
    """
    # What reading can tell is told before seconds are spent on importing torch.
    config = read_config(folder)
    checkpoint = read_checkpoint(folder)
    with quiet_transformers() as transformers:
        module, notes = load_weights(folder, _model_class(transformers, folder, config), checkpoint)
    from ingot.frontend.example_call import example_call

    call = example_call(module, folder, types=_tokenizer_gives_types(folder))
    return Source(
        name=folder.resolve().name,
        module=module,
        kwargs=dict(call.inputs),
        dynamic_shapes=call.dynamic_shapes,
        domains=call.domains,
        warnings=notes,
        drawn=True,
    )


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
            fix=f"{BY_HAND}; there the code is yours to trust",
        )
    raise SourceError(
        f"transformers {transformers.__version__} has no model '{name}'",
        where=str(folder / "config.json"),
        fix=f"pip install --upgrade transformers, or {BY_HAND}",
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
            fix=f"name the class in its 'architectures', or {BY_HAND}",
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
            fix=BY_HAND,
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
            dtype="float32",
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
    _refuse_disagreement(module, report, where)
    for child in module.modules():
        if getattr(getattr(child, "config", None), "use_cache", False):
            child.config.use_cache = False
    left_out = "pooler." if options else None
    unexpected = sorted(name for name in report["unexpected_keys"] if left_out is None or left_out not in name)
    return module, _notes(model_class, checkpoint, unexpected)


def _refuse_disagreement(module: Any, report: dict[str, Any], where: str) -> None:
    name = type(module).__name__
    other = "config.json belongs to another checkpoint: take both from one"
    wrong = sorted(
        f"{tensor} {list(stored)} (config: {list(wanted)})" for tensor, stored, wanted in report["mismatched_keys"]
    )
    if wrong:
        raise SourceError(
            f"config and weights disagree about {len(wrong)} shape{'s' if len(wrong) > 1 else ''}: {listed(wrong)}",
            where=where,
            fix=other,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise SourceError(
            f"the weights lack {len(missing)} of {name}'s tensors: {listed(missing)}",
            where=where,
            fix="take the whole checkpoint, or the class it was saved from in config.json's 'architectures'",
        )
    surplus = _surplus_layers(module, sorted(report["unexpected_keys"]))
    if surplus:
        raise SourceError(
            f"config and weights disagree about the number of layers; beyond those of the config: {listed(surplus)}",
            where=where,
            fix=other,
        )


def _surplus_layers(module: Any, unexpected: Sequence[str]) -> list[str]:
    """The tensors whose number is beyond the end of a list of layers that the model has.

    Any other tensor that goes unused belongs to a head that the architecture does without.
    """
    lengths = {
        path: len(child)
        for path, child in module.named_modules()
        if type(child).__name__ in ("ModuleList", "Sequential")
    }
    prefix = f"{module.base_model_prefix}."
    surplus = []
    for name in unexpected:
        for match in re.finditer(r"\.(\d+)\.", name):
            path = name[: match.start()]
            length = next(
                (lengths[way] for way in (path, prefix + path, path.removeprefix(prefix)) if way in lengths), None
            )
            if length is not None and int(match.group(1)) >= length:
                surplus.append(name)
                break
    return surplus


def _notes(model_class: Any, checkpoint: Checkpoint, unexpected: list[str]) -> list[str]:
    notes = []
    if unexpected:
        notes.append(f"{model_class.__name__} does not use {len(unexpected)} of the weights: {listed(unexpected)}")
    half = sorted({dtype for dtype, _ in checkpoint.tensors.values()} & {"F16", "BF16"})
    if half:
        notes.append(f"weights stored as {' and '.join(half)} are compiled in float32")
    return notes


def _tokenizer_gives_types(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    names = read_json(path).get("model_input_names") if path.is_file() else None
    return names is None or "token_type_ids" in names
