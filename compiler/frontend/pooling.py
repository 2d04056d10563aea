"""What follows the transformer in a sentence encoder: pooling and normalising.

The formulas are those of sentence-transformers 6.2 (Apache-2.0), which itself is not imported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ingot.frontend.sentence_transformers import OUTPUT


class SentenceEncoder(torch.nn.Module):
    """Token ids and mask [B, S] to {"sentence_embedding": [B, H]}: a transformer, pooling, and what follows it."""

    def __init__(self, transformer: torch.nn.Module, pooling: torch.nn.Module, heads: list[torch.nn.Module]) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling
        self.heads = torch.nn.Sequential(*heads)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return {OUTPUT: self.heads(self.pooling(tokens, attention_mask))}


class Pooling(torch.nn.Module):
    """Token embeddings [B, S, H] and mask [B, S] to [B, H * number of modes], the modes one after the other."""

    def __init__(self, *modes: str) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.cat([POOLINGS[mode](tokens, mask) for mode in self.modes], dim=-1)


def _cls(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(tokens, mask.to(torch.int32).argmax(dim=1))


def _last(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(mask.shape[1], device=mask.device)
    return _at(tokens * mask.unsqueeze(-1).to(tokens.dtype), (positions * mask).amax(dim=1))


def _at(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, index[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)


def _max(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _sum_and_count(tokens: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = weights.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)


def _mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sum_and_count(tokens, mask)
    return total / count


def _mean_sqrt(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _sum_and_count(tokens, mask)
    return total / count.sqrt()


def _weighted_mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    first = mask.to(torch.int32).argmax(dim=1)
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device) - first.unsqueeze(-1)
    total, count = _sum_and_count(tokens, mask * positions)
    return total / count


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Normalize(torch.nn.Module):
    """[B, H] to vectors of length 1."""

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embedding, p=2, dim=-1)
