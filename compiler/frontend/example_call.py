"""One call of a Hugging Face model made up from its config: seeded inputs, the bounds of their axes, their domains."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ingot.errors import SourceError
from ingot.frontend.checkpoint import BY_HAND, read_json
from ingot.signature import Domain

BATCH = 2
SEQUENCE = 16
PADDING = 3
"""Sizes of the example inputs, and how many positions at the end of the second row are padding."""


@dataclass(slots=True)
class Examples:
    """Example inputs by forward's parameter names, their dims in torch.export's form, and what they may hold."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    dynamic_shapes: dict[str, dict[int, Any]] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)

    def add(self, name: str, value: torch.Tensor, axes: dict[int, Any], domain: Domain | None = None) -> None:
        self.inputs[name] = value
        self.dynamic_shapes[name] = axes
        if domain is not None:
            self.domains[name] = domain


def example_call(module: Any, folder: Path, *, types: bool) -> Examples:
    """Seeded example inputs for one call, from the model's config; `types`: whether its tokenizer gives token types.

    Raises SourceError for inputs of another kind.
    """
    parameters = inspect.signature(module.forward).parameters
    main = str(module.main_input_name)
    both = "pixel_values" in parameters and "input_ids" in parameters
    waveform = main == "input_values" and hasattr(module.config, "conv_kernel")
    if both or not (waveform or main in ("input_ids", "pixel_values", "input_features")):
        takes = "input_ids and pixel_values" if both else main
        raise SourceError(
            f"example inputs for {type(module).__name__} ({takes}) cannot be made from its config",
            where=str(folder),
            fix=BY_HAND,
        )
    call = Examples()
    random = torch.Generator().manual_seed(0)
    batch = torch.export.Dim("batch")
    if main == "pixel_values":
        channels = int(getattr(module.config, "num_channels", 3))
        shape = (BATCH, channels, *_image_size(module.config, folder))
        call.add("pixel_values", torch.randn(shape, generator=random), {0: batch})
    elif main == "input_features":
        frames = (BATCH, module.config.num_mel_bins, 2 * module.config.max_source_positions)
        call.add("input_features", torch.randn(frames, generator=random), {0: batch})
    elif waveform:
        _add_waveform(call, module, random, batch)
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


def _add_text(call: Examples, module: Any, types: bool, random: torch.Generator, batch: Any) -> None:
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


def _add_waveform(call: Examples, module: Any, random: torch.Generator, batch: Any) -> None:
    """Samples of sound [B, samples], with a mask where the model was trained with one (normalised by layer)."""
    config = module.config

    def samples(frames: int) -> int:
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            frames = (frames - 1) * int(stride) + int(kernel)
        return frames

    axes = {0: batch, 1: torch.export.Dim("samples", min=samples(2))}
    shape = (BATCH, samples(SEQUENCE))
    call.add("input_values", torch.randn(shape, generator=random), axes)
    if config.feat_extract_norm == "layer":
        mask = torch.ones(shape, dtype=torch.int64)
        mask[1, samples(SEQUENCE - PADDING) :] = 0
        call.add("attention_mask", mask, axes, Domain(0, 1, "mask"))


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
