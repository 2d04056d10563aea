"""The promise: planted faults are rejected, lawful rewrites are not, and the error says what to do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ingot.errors import EngineError, SourceError, VerificationError
from ingot.verify.locate import Located
from ingot.verify.reference import Reference
from ingot.verify.verify import Accuracy, verify

Array = np.ndarray[Any, Any]


def wrong_epsilon(module: Any) -> None:
    module.norm.eps = 1e-6


def dropped_mask(module: Any) -> None:
    module.scores = lambda x, attention_mask: x @ x.transpose(1, 2)


def weak_mask(module: Any) -> None:
    module.scores = lambda x, mask: x @ x.transpose(1, 2) + (1 - mask[:, None, :].float()) * -10


def transposed_weight(module: Any) -> None:
    module.mix.weight = torch.nn.Parameter(module.mix.weight.detach().T.contiguous())


def wrong_word(module: Any) -> None:
    table = module.words.weight.detach().roll(1, 0)
    module.words.weight = torch.nn.Parameter(table)


def one_channel_of_bias(module: Any) -> None:
    module.mix.bias.data[3] += 1e-3


def last_row(outputs: list[Array]) -> None:
    outputs[0][-1, -1] *= np.float32(1.0001)


def swapped_axes(outputs: list[Array]) -> Sequence[Array]:
    hidden = outputs[0]
    return [hidden.transpose(1, 0, 2).reshape(hidden.shape), *outputs[1:]]


def stray_nan(outputs: list[Array]) -> None:
    outputs[1][-1, -1] = np.nan


def off_by_one(outputs: list[Array]) -> None:
    outputs[2][-1] += 1


def float16_on_the_way(outputs: list[Array]) -> None:
    outputs[1][:] = outputs[1].astype(np.float16)


def fewer_outputs(outputs: list[Array]) -> Sequence[Array]:
    return outputs[:2]


def other_dtype(outputs: list[Array]) -> Sequence[Array]:
    return [*outputs[:2], outputs[2].astype(np.int32)]


IN_THE_MODULE = [wrong_epsilon, dropped_mask, weak_mask, transposed_weight, wrong_word, one_channel_of_bias]
IN_THE_OUTPUT = {
    last_row: "hidden",
    swapped_axes: "hidden",
    stray_nan: "pooled",
    off_by_one: "lengths",
    float16_on_the_way: "pooled",
    fewer_outputs: "lengths",
    other_dtype: "lengths",
}


def run(encoder: Any, engine: Any, **options: Any) -> Accuracy:
    return verify(engine, encoder.reference, encoder.cases, signature=encoder.signature, **options)


def engine_of(encoder: Any, alter: Callable[[Any], None] | None = None, after: Any = None) -> Any:
    """The encoder as an engine, as a session."""
    module = copy.deepcopy(encoder.module)
    if alter:
        alter(module)
    return Engine(module, after)


class Engine:
    def __init__(self, module: Any, after: Any) -> None:
        self.module, self.after = module, after

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        with torch.no_grad():
            result = self.module(*(torch.from_numpy(array) for array in inputs))
        outputs = [tensor.numpy().copy() for tensor in result.values()]
        altered = self.after(outputs) if self.after else None
        return outputs if altered is None else altered


def test_the_model_itself_differs_by_nothing(encoder: Any) -> None:
    accuracy = run(encoder, engine_of(encoder))
    assert [output.name for output in accuracy.outputs] == ["hidden", "pooled", "lengths"]
    assert accuracy.worst.measure.holds
    record = json.loads(json.dumps(accuracy.to_json(), allow_nan=False))
    assert len(record["cases"]) == len(encoder.cases)
    assert record["cases"][0] == {"name": encoder.cases[0].name, "origin": "user", "shapes": [[2, 16], [2, 16]]}


@pytest.mark.parametrize("alter", IN_THE_MODULE)
def test_a_fault_in_the_model_is_rejected(encoder: Any, alter: Callable[[Any], None]) -> None:
    with pytest.raises(VerificationError, match="does not compute what the model computes"):
        run(encoder, engine_of(encoder, alter))


@pytest.mark.parametrize("after", IN_THE_OUTPUT)
def test_a_fault_in_an_output_is_rejected_and_named(encoder: Any, after: Any) -> None:
    with pytest.raises(VerificationError, match=f"output '{IN_THE_OUTPUT[after]}'"):
        run(encoder, engine_of(encoder, after=after))


def in_other_order(module: Any) -> None:
    """Sums along K in pieces, from the last."""
    weight, bias = module.mix.weight.detach(), module.mix.bias.detach()

    def mix(x: torch.Tensor) -> torch.Tensor:
        parts = [x[..., k : k + 5] @ weight[:, k : k + 5].T for k in range(0, weight.shape[1], 5)]
        return sum(reversed(parts), bias)

    del module.mix
    module.mix = mix


def folded_norm(module: Any) -> None:
    """The norm's scale and shift go into the weights of what follows."""
    weight, bias = module.mix.weight.detach(), module.mix.bias.detach()
    module.mix.bias.data = bias + weight @ module.norm.bias.detach()
    module.mix.weight.data = weight * module.norm.weight.detach()
    module.norm.weight, module.norm.bias = None, None


def masked_by_adding(module: Any) -> None:
    module.scores = lambda x, mask: x @ x.transpose(1, 2) + (1 - mask[:, None, :].float()) * -1e4


def in_float64(module: Any) -> None:
    module.words.double(), module.norm.double(), module.mix.double()


def rounded(outputs: list[Array]) -> Sequence[Array]:
    return [outputs[0].astype(np.float32), outputs[1].astype(np.float32), outputs[2]]


@pytest.mark.parametrize(
    ("alter", "rounds"), [(in_other_order, True), (folded_norm, True), (in_float64, True), (masked_by_adding, False)]
)
def test_a_lawful_rewrite_is_accepted(encoder: Any, alter: Callable[[Any], None], rounds: bool, seed: int) -> None:
    torch.nn.init.normal_(encoder.module.norm.weight, 1, 0.2)
    torch.nn.init.normal_(encoder.module.norm.bias, 0, 0.2)
    accuracy = run(encoder, engine_of(encoder, alter, rounded), seed=seed)
    assert accuracy.worst.measure.worst_db >= 100
    assert (accuracy.worst.measure.max_abs_error > 0) == rounds


def test_a_model_noisier_than_the_floor_is_held_to_its_own_noise(encoder: Any) -> None:
    """Adding 1e4 and taking it away leaves eager some 60 dB: an engine that rounds less is lawful, a wrong one not."""
    engine = engine_of(encoder, in_float64, rounded)
    wrong = engine_of(encoder, transposed_weight)
    plain = encoder.module.norm
    encoder.module.norm = Cancels(plain)
    accuracy = run(encoder, engine)
    assert accuracy.outputs[0].measure.within_noise
    assert accuracy.outputs[0].measure.worst_db < 90
    with pytest.raises(VerificationError):
        run(encoder, wrong)


class Cancels(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cancelled: torch.Tensor = (self.norm(x) + 1e4) - 1e4
        return cancelled


def test_the_error_says_which_how_much_where_and_what_next(encoder: Any, seed: int) -> None:
    asked = []

    def locate(case: Any, expected: Any) -> Located:
        asked.append((case, expected))
        return Located("rewrite", detail="LayerNormalization -> layer_norm in norm (model.py:3: x = self.norm(x))")

    with pytest.raises(VerificationError) as caught:
        run(encoder, engine_of(encoder, wrong_epsilon), seed=seed, locate=locate)
    message = str(caught.value)
    assert "needs 100 dB" in message
    assert "model.py:3" in message
    assert f"INGOT_SEED={seed}" in message
    assert "--verify off" in message
    assert caught.value.exit_code == 1
    case, expected = asked[0]
    assert case.name in message
    np.testing.assert_array_equal(expected[0], encoder.reference.run(case)[0])


def test_a_tie_that_rounding_decides_is_rejected_and_explained(encoder: Any) -> None:
    """The lengths depend on 1e8 + 0.3 * tokens: float32 rounds what float64 keeps."""
    plain = encoder.module.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        far = torch.tensor([1e8]) + 0.3 * attention_mask.sum(1)
        return {**plain(input_ids, attention_mask), "lengths": (far - 1e8).to(torch.int64)}

    encoder.module.forward = forward
    with pytest.raises(VerificationError, match=r"(?s)output 'lengths'.*a tie that rounding decides"):
        run(encoder, engine_of(encoder, after=off_by_one))
    encoder.module.forward = plain
    encoder.reference = Reference(encoder.module, encoder.signature, encoder.call)
    with pytest.raises(VerificationError) as caught:
        run(encoder, engine_of(encoder, after=off_by_one))
    assert "tie" not in str(caught.value)


def test_a_float_that_rounding_decides_is_rejected_and_explained(encoder: Any) -> None:
    """The sine of 1e8 times a sum is another number in float64: that excuses nothing, and what is the same holds."""
    plain = encoder.module.forward

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = plain(input_ids, attention_mask)
        return {**outputs, "pooled": torch.sin(outputs["pooled"] * 1e8)}

    def negated(outputs: list[Array]) -> None:
        outputs[1] *= -1

    def row(outputs: list[Array]) -> None:
        outputs[0][-1, -1] *= -1

    encoder.module.forward = forward
    assert run(encoder, engine_of(encoder)).worst.measure.holds
    with pytest.raises(VerificationError) as caught:
        run(encoder, engine_of(encoder, after=negated))
    assert "output 'pooled'" in str(caught.value)
    assert "PyTorch eager in float64 gives other values" in str(caught.value)
    assert "rounding decides" in str(caught.value)
    assert "x.double()" in str(caught.value)
    assert "--verify off" in str(caught.value)
    with pytest.raises(VerificationError, match="output 'hidden'") as caught:
        run(encoder, engine_of(encoder, after=row))
    assert "rounding decides" not in str(caught.value)


def test_a_model_that_raises_is_not_the_engines_fault(encoder: Any) -> None:
    encoder.module.mix = torch.nn.Linear(7, 7)
    with pytest.raises(SourceError, match="the model itself raises"):
        run(encoder, None)


def test_an_engine_that_refuses_declared_inputs_is_rejected(encoder: Any) -> None:
    class Refuses:
        def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
            raise EngineError("Reshape: 16 does not fit 11", where="node_view")

    with pytest.raises(VerificationError, match="Reshape: 16 does not fit 11"):
        run(encoder, Refuses())


def test_an_engine_that_writes_into_its_inputs_does_not_poison_the_reference(encoder: Any) -> None:
    class Writes(Engine):
        def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
            outputs = super().run(inputs)
            inputs[0][:] = 0
            return outputs

    before = encoder.cases[1].inputs[0].copy()
    run(encoder, Writes(encoder.module, None))
    np.testing.assert_array_equal(encoder.cases[1].inputs[0], before)


def test_progress_names_each_case(encoder: Any) -> None:
    said: list[str] = []
    run(encoder, engine_of(encoder), progress=said.append)
    assert said == [case.name for case in encoder.cases]
