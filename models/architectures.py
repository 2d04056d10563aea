"""Real architectures, the code of transformers and diffusers, with few layers and drawn weights: nothing is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ingot.models.example import Example, draw, draw_ids, seeded


class First(nn.Module):
    """The first tensor of what a model of transformers or diffusers returns, its own options given."""

    def __init__(self, inner: nn.Module, **options: Any) -> None:
        super().__init__()
        self.inner = inner
        self.options = options

    def first(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.inner(*args, **kwargs, **self.options)[0]  # type: ignore[no-any-return]


class TokenModel(First):
    """input_ids, attention_mask [B, S] to the last hidden states or logits of every token."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.first(input_ids=input_ids, attention_mask=attention_mask)


class ImageModel(First):
    """pixels [B, 3, height, width] to what the model's first output is."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.first(pixels)


class SpeechModel(First):
    """features [B, mel bins, frames] to hidden states [B, frames / 2, H]."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.first(features)


class UNetBlock(First):
    """x [B, C, height, width], time [B, T], text [B, L, X] to [B, C', height / 2, width / 2]."""

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.first(x, temb=time, encoder_hidden_states=text)


def _tokens(seed: int, vocabulary: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Two rows of 9 tokens, the second with 3 of padding, and their dims."""
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, -3:] = 0
    axes = {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("sequence", max=64)}
    inputs = {"input_ids": draw_ids(seed, vocabulary, 2, 9), "attention_mask": mask}
    return inputs, {"input_ids": axes, "attention_mask": axes}


def bert(seed: int = 0, *, hidden: int = 64, layers: int = 2, heads: int = 4, vocabulary: int = 101) -> Example:
    """The architecture of MiniLM."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=64,
    )
    inputs, axes = _tokens(seed, vocabulary)
    return Example(seeded(seed, lambda: TokenModel(BertModel(config))), kwargs=inputs, dynamic_shapes=axes)


def vit(
    seed: int = 0, *, hidden: int = 64, layers: int = 2, heads: int = 4, image: int = 32, patch: int = 8
) -> Example:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        image_size=image,
        patch_size=patch,
    )
    return Example(
        seeded(seed, lambda: ImageModel(ViTForImageClassification(config))),
        (draw(seed, 2, 3, image, image),),
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch", max=8)}},
    )


def resnet(seed: int = 0, *, widths: tuple[int, ...] = (16, 32), depths: tuple[int, ...] = (1, 2)) -> Example:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=list(widths), depths=list(depths), layer_type="basic")
    axes = {0: torch.export.Dim("batch", max=8), 2: torch.export.Dim("height", min=32, max=96)}
    return Example(
        seeded(seed, lambda: ImageModel(ResNetForImageClassification(config))),
        (draw(seed, 2, 3, 48, 64),),
        dynamic_shapes={"pixels": axes},
    )


def gpt2(seed: int = 0, *, hidden: int = 64, layers: int = 2, heads: int = 4, vocabulary: int = 97) -> Example:
    """Logits of every token; the mask pads at the end."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=hidden, n_layer=layers, n_head=heads)
    inputs, axes = _tokens(seed, vocabulary)
    return Example(
        seeded(seed, lambda: TokenModel(GPT2LMHeadModel(config), use_cache=False)), kwargs=inputs, dynamic_shapes=axes
    )


def whisper_encoder(
    seed: int = 0, *, hidden: int = 64, layers: int = 2, heads: int = 4, frames: int = 40, bins: int = 16
) -> Example:
    """Whisper takes one length, whatever was said: `frames` is fixed."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=hidden,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * hidden,
        num_mel_bins=bins,
        max_source_positions=frames // 2,
    )
    return Example(
        seeded(seed, lambda: SpeechModel(WhisperEncoder(config))),
        (draw(seed, 2, bins, frames),),
        dynamic_shapes={"features": {0: torch.export.Dim("batch", max=8)}},
    )


def t5_encoder(
    seed: int = 0, *, hidden: int = 64, layers: int = 2, heads: int = 4, head_size: int = 16, vocabulary: int = 89
) -> Example:
    """Relative positions as a bias of attention, which T5 does not scale."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary, d_model=hidden, d_kv=head_size, d_ff=3 * hidden, num_layers=layers, num_heads=heads
    )
    inputs, axes = _tokens(seed, vocabulary)
    return Example(seeded(seed, lambda: TokenModel(T5EncoderModel(config))), kwargs=inputs, dynamic_shapes=axes)


def unet_block(seed: int = 0, *, channels: int = 32, size: int = 16, text: int = 24, heads: int = 4) -> Example:
    """A step down of Stable Diffusion's UNet: residual blocks with a time embedding, each with cross attention."""
    from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D

    batch = torch.export.Dim("batch", max=4)
    return Example(
        seeded(
            seed,
            lambda: UNetBlock(
                CrossAttnDownBlock2D(
                    in_channels=channels,
                    out_channels=2 * channels,
                    temb_channels=4 * channels,
                    num_layers=1,
                    resnet_groups=8,
                    num_attention_heads=heads,
                    cross_attention_dim=text,
                )
            ),
        ),
        (draw(seed, 2, channels, size, size), draw(seed + 1, 2, 4 * channels), draw(seed + 2, 2, 7, text)),
        dynamic_shapes={"x": {0: batch}, "time": {0: batch}, "text": {0: batch}},
    )
