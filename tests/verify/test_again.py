"""A file measured again: the same promise on fresh inputs, and a word where it is another model's."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.errors import UsageError, VerificationError
from ingot.verify.again import verify_again


def engine_of(encoder: Any, module: Any = None) -> Any:
    built = copy.deepcopy(module or encoder.module)

    def run_flat(arrays: Any) -> Any:
        with torch.no_grad():
            return [tensor.numpy() for tensor in built(*map(torch.from_numpy, arrays)).values()]

    return SimpleNamespace(run_flat=run_flat, header=SimpleNamespace(signature=encoder.signature), name="encoder")


def test_the_same_model_holds_and_each_time_is_drawn_afresh(encoder: Any) -> None:
    inputs = tuple(encoder.call.tensors)
    one, two = (verify_again(engine_of(encoder), encoder.module, inputs=inputs) for _ in range(2))
    assert one.worst.measure.holds
    assert len(one.cases) == len(encoder.cases)
    assert one.seed != two.seed
    assert verify_again(engine_of(encoder), encoder.module, inputs=inputs, seed=5).seed == 5


def test_other_weights_are_rejected_with_the_seed_to_replay(encoder: Any) -> None:
    other = copy.deepcopy(encoder.module)
    other.mix.bias.data += 1e-3
    with pytest.raises(VerificationError) as caught:
        verify_again(engine_of(encoder, other), encoder.module, inputs=tuple(encoder.call.tensors), seed=5)
    assert "--seed 5" in str(caught.value.fix)
    assert "--verify off" not in str(caught.value.fix)


def test_another_call_is_refused(encoder: Any) -> None:
    inputs = tuple(tensor.to(torch.int32) for tensor in encoder.call.tensors)
    with pytest.raises(UsageError, match="input_ids int32 of 2 axes"):
        verify_again(engine_of(encoder), encoder.module, inputs=inputs)
