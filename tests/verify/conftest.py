"""A small masked encoder with its signature, reference and cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from ingot.frontend.structure import Call, take_apart
from ingot.signature import Dim, Domain, Signature, Tensor
from ingot.verify.draw import Case, cases
from ingot.verify.reference import Reference

WORDS, HIDDEN = 600, 32


class Encoder(torch.nn.Module):
    """ids, mask [B, S] -> {"hidden" [B, S, H], "pooled" [B, H], "lengths" [B]}"""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, HIDDEN)
        torch.nn.init.normal_(self.words.weight, std=0.02)
        self.norm = torch.nn.LayerNorm(HIDDEN)
        self.mix = torch.nn.Linear(HIDDEN, HIDDEN)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.dropout(self.mix(self.norm(self.words(input_ids))))
        weights = self.scores(x, attention_mask).softmax(-1)
        hidden = x + weights @ x
        kept = attention_mask.to(hidden.dtype)[:, :, None]
        pooled = (hidden * kept).sum(1) / kept.sum(1)
        return {"hidden": hidden, "pooled": pooled, "lengths": attention_mask.sum(1)}

    def scores(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (x @ x.transpose(1, 2)).masked_fill(attention_mask[:, None, :] == 0, -1e9)


@dataclass
class Setup:
    module: Encoder
    call: Call
    signature: Signature
    reference: Reference
    cases: list[Case]
    examples: list[np.ndarray[Any, Any]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Models this small lose more by waiting for a second thread than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def encoder(seed: int) -> Setup:
    return build(seed)


@pytest.fixture(scope="module")
def shared_encoder() -> Setup:
    """One for all tests of a file that leave it as it is."""
    return build(int(os.environ["INGOT_SEED"]))


def build(seed: int) -> Setup:
    torch.manual_seed(seed)
    module = Encoder().eval()
    ids, mask = torch.randint(0, WORDS, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    call = take_apart(module.forward, (ids, mask), {})
    signature = Signature(
        inputs=(
            Tensor("input_ids", "int64", ("batch", "sequence"), Domain(0, WORDS - 1)),
            Tensor("attention_mask", "int64", ("batch", "sequence"), Domain(0, 1, "mask")),
        ),
        outputs=(
            Tensor("hidden", "float32", ("batch", "sequence", HIDDEN)),
            Tensor("pooled", "float32", ("batch", HIDDEN)),
            Tensor("lengths", "int64", ("batch",)),
        ),
        dims=(Dim("batch"), Dim("sequence", 1, 512)),
        parameters=call.trees,
        result={"dict": {"hidden": {"tensor": 0}, "pooled": {"tensor": 1}, "lengths": {"tensor": 2}}},
    )
    examples = [ids.numpy(), mask.numpy()]
    drawn = cases(signature, examples, seed=seed)
    return Setup(module, call, signature, Reference(module, signature, call), drawn, examples)
