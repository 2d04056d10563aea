"""A small language model with a fault planted must be rejected; built in another lawful way it must be accepted."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ingot.errors import VerificationError
from ingot.frontend.structure import take_apart
from ingot.signature import Dim, Domain, Signature
from ingot.signature import Tensor as Declared
from ingot.verify.draw import Case, cases
from ingot.verify.reference import Reference
from ingot.verify.verify import Accuracy, verify

WORDS, HIDDEN, HEADS, KV_HEADS, HEAD, INNER, WINDOW = 300, 32, 4, 2, 8, 48, 6


class Model(nn.Module):
    """ids, mask [B, S] -> {"hidden" [B, S, H], "pooled" [B, H], "best" [B]}; a method for each choice."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, HIDDEN)
        self.kinds = nn.Parameter(torch.randn(HIDDEN) * 0.01)
        self.q, self.o = nn.Linear(HIDDEN, HEADS * HEAD), nn.Linear(HEADS * HEAD, HIDDEN)
        self.k, self.v = nn.Linear(HIDDEN, KV_HEADS * HEAD), nn.Linear(HIDDEN, KV_HEADS * HEAD)
        self.gate, self.up, self.down = nn.Linear(HIDDEN, INNER), nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)
        self.wide, self.narrow = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)
        self.weight, self.shift = nn.Parameter(1 + 0.2 * torch.randn(HIDDEN)), nn.Parameter(0.2 * torch.randn(HIDDEN))
        self.eps, self.rms_eps, self.scale, self.cap, self.theta = 1e-5, 1e-6, HEAD**-0.5, 20.0, 10000.0
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.embed(ids))
        x = x + self.attention(self.rms(0.01 * x), mask)
        x = x + self.gated(x)
        hidden = x + self.narrow(self.activate(self.wide(x)))
        pooled = self.pool(hidden, mask)
        return {"hidden": hidden, "pooled": pooled, "best": self.best(pooled)}

    def embed(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.kinds

    def norm(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (HIDDEN,), self.weight, self.shift, self.eps)

    def rms(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.rms_eps)

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x), HEADS), self.heads(self.k(x), KV_HEADS), self.heads(self.v(x), KV_HEADS)
        q, k = self.rotate(q), self.rotate(k)
        return self.o(self.merge(self.attend(q, self.repeat(k), self.repeat(v), self.visible(mask))))

    def heads(self, x: Tensor, count: int) -> Tensor:
        return x.unflatten(-1, (count, HEAD)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def repeat(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(HEADS // KV_HEADS, dim=1)

    def angles(self, length: int) -> Tensor:
        return self.positions(length)[:, None] / self.theta ** (torch.arange(0, HEAD, 2) / HEAD)

    def positions(self, length: int) -> Tensor:
        return torch.arange(length)

    def rotate(self, x: Tensor) -> Tensor:
        angles = self.angles(x.shape[2]).repeat(1, 2)
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    def visible(self, mask: Tensor) -> Tensor:
        distance = self.distance(mask.shape[1])
        near = (distance >= 0) & (distance < WINDOW)
        return (near & (mask[:, None, None, :] != 0)) | (distance == 0)

    def distance(self, length: int) -> Tensor:
        return torch.arange(length)[:, None] - torch.arange(length)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        return self.softmax(self.capped(q @ k.mT * self.scale).masked_fill(~visible, -1e9)) @ v

    def capped(self, scores: Tensor) -> Tensor:
        return torch.tanh(scores / self.cap) * self.cap

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def gated(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))

    def activate(self, x: Tensor) -> Tensor:
        return functional.gelu(x)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        kept = mask[:, :, None].to(hidden.dtype)
        return (hidden * kept).sum(1) / kept.sum(1)

    def best(self, pooled: Tensor) -> Tensor:
        return (pooled @ self.words.weight.T).argmax(-1)


Alter = Callable[[Any], None]


def sets(**values: Any) -> Alter:
    """The same module with other constants, or with other functions in place of its methods."""
    return lambda module: [setattr(module, name, value) for name, value in values.items()] and None


def wraps(name: str, around: Callable[..., Tensor]) -> Alter:
    """`around(the method, *its arguments)` in place of the method `name`."""

    def alter(module: Any) -> None:
        method = getattr(module, name)
        setattr(module, name, lambda *args: around(method, *args))

    return alter


def exchanges(one: str, other: str) -> Alter:
    return lambda module: sets(**{one: getattr(module, other), other: getattr(module, one)})(module)


def in_place(name: str, change: Callable[[Tensor], Tensor]) -> Alter:
    """The weight at the path `name` changed."""

    def alter(module: Any) -> None:
        weight = module.get_parameter(name)
        weight.data = change(weight.data.clone())

    return alter


def one_element(x: Tensor) -> Tensor:
    x.view(-1)[7] += 1e-3
    return x


def interleaved(module: Any) -> None:
    def rotate(x: Tensor) -> Tensor:
        angles = module.angles(x.shape[2]).repeat_interleave(2, 1)
        return x * angles.cos() + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * angles.sin()

    module.rotate = rotate


def window_of(width: int, ahead: int = 0) -> Alter:
    def alter(module: Any) -> None:
        def visible(mask: Tensor) -> Tensor:
            distance = module.distance(mask.shape[1])
            near = (distance >= -ahead) & (distance < width)
            return (near & (mask[:, None, None, :] != 0)) | (distance == 0)

        module.visible = visible

    return alter


def biased(module: Any) -> None:
    def norm(x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + module.eps) * module.weight + module.shift

    module.norm = norm


FAULTS: dict[str, Alter] = {
    "layer norm with the epsilon of another": sets(eps=1e-6),
    "rms norm with the epsilon of another": sets(rms_eps=1e-5),
    "variance divided by n - 1": biased,
    "rms norm that subtracts the mean": wraps("rms", lambda rms, x: rms(x - x.mean(-1, keepdim=True))),
    "norm without its shift": in_place("shift", torch.zeros_like),
    "scale left out": sets(scale=1.0),
    "scale of the hidden size": sets(scale=HIDDEN**-0.5),
    "soft cap left out": wraps("capped", lambda _, scores: scores),
    "window one wider": window_of(WINDOW + 1),
    "window one narrower": window_of(WINDOW - 1),
    "no window, seen only past it": window_of(10**6),
    "one token of the future": window_of(WINDOW, ahead=1),
    "padding seen": wraps("visible", lambda visible, mask: visible(torch.ones_like(mask))),
    "padding moved by one": wraps("visible", lambda visible, mask: visible(mask.roll(-1, 1))),
    "the first row's padding for all": wraps("visible", lambda visible, mask: visible(mask[:1].expand_as(mask))),
    "softmax over queries": wraps("softmax", lambda _, scores: scores.softmax(-2)),
    "a mask too weak": wraps("softmax", lambda softmax, scores: softmax(scores.clamp(min=-12.0))),
    "heads transposed": wraps("heads", lambda _, x, count: x.unflatten(-1, (HEAD, count)).permute(0, 3, 1, 2)),
    "heads merged in another order": wraps("merge", lambda _, x: x.permute(0, 2, 3, 1).flatten(2)),
    "key heads tiled": wraps("repeat", lambda _, x: x.repeat(1, HEADS // KV_HEADS, 1, 1)),
    "keys and values exchanged": exchanges("k", "v"),
    "rotary pairs interleaved": interleaved,
    "rotary with the base of another": sets(theta=500000.0),
    "rotary turned back": wraps("angles", lambda angles, length: -angles(length)),
    "positions end at the traced length": wraps("positions", lambda positions, length: positions(length).clamp(max=15)),
    "gate and up exchanged": exchanges("gate", "up"),
    "gelu by tanh": sets(activate=lambda x: functional.gelu(x, approximate="tanh")),
    "gelu by sigmoid": sets(activate=lambda x: x * torch.sigmoid(1.702 * x)),
    "activation in float16": wraps("activate", lambda activate, x: activate(x).half().float()),
    "residual left out": wraps("gated", lambda gated, x: gated(x) - x),
    "a type embedding left out": in_place("kinds", torch.zeros_like),
    "one weight a little off": in_place("narrow.weight", one_element),
    "a weight transposed": in_place("o.weight", lambda x: x.T.contiguous()),
    "weights rounded to bfloat16": in_place("up.weight", lambda x: x.bfloat16().float()),
    "a bias left out": in_place("down.bias", torch.zeros_like),
    "mean over padding too": wraps("pool", lambda _, hidden, mask: hidden.mean(1)),
    "mean that counts padding": wraps(
        "pool", lambda pool, hidden, mask: pool(hidden, mask) * mask.sum(1)[:, None] / mask.shape[1]
    ),
    "argmax one off": wraps("best", lambda best, pooled: (best(pooled) + 1) % WORDS),
    "argmin": wraps("best", lambda best, pooled: best(-pooled)),
}


def in_pieces(layer: nn.Linear, width: int) -> Callable[[Tensor], Tensor]:
    """The product summed over blocks of K, the last first."""
    weight, bias = layer.weight.detach(), layer.bias.detach()

    def product(x: Tensor) -> Tensor:
        parts = [x[..., k : k + width] @ weight[:, k : k + width].T for k in range(0, weight.shape[1], width)]
        return sum(reversed(parts), torch.zeros(())) + bias

    return product


def blocked_products(module: Any) -> None:
    for name, width in (("q", 5), ("o", 7), ("gate", 16), ("down", 11)):
        product = in_pieces(getattr(module, name), width)
        delattr(module, name)
        setattr(module, name, product)


def fused_queries_keys_values(module: Any) -> None:
    layers = (module.q, module.k, module.v)
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    sizes = [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD]

    def attention(x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = functional.linear(x, weight, bias).split(sizes, -1)
        q, k = module.rotate(module.heads(q, HEADS)), module.rotate(module.heads(k, KV_HEADS))
        v = module.repeat(module.heads(v, KV_HEADS))
        return module.o(module.merge(module.attend(q, module.repeat(k), v, module.visible(mask))))

    module.attention = attention


def scale_in_the_weights(module: Any) -> None:
    module.q.weight.data = module.q.weight.data * module.scale
    module.q.bias.data = module.q.bias.data * module.scale
    module.scale = 1.0


def online_softmax(module: Any) -> None:
    """Keys in blocks of 4 with a running maximum, as a fused attention kernel goes."""

    def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        scores = module.capped(q @ k.mT * module.scale).masked_fill(~visible, -1e9)
        top, total, result = torch.full_like(scores[..., :1], -math.inf), 0.0, 0.0
        for start in range(0, k.shape[2], 4):
            block = scores[..., start : start + 4]
            above = torch.maximum(top, block.amax(-1, keepdim=True))
            kept, weights = torch.exp(top - above), torch.exp(block - above)
            total = total * kept + weights.sum(-1, keepdim=True)
            result = result * kept + weights @ v[:, :, start : start + 4]
            top = above
        return result / total

    module.attend = attend


def complex_rotary(module: Any) -> None:
    def rotate(x: Tensor) -> Tensor:
        turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones(()), module.angles(x.shape[2]))
        return torch.cat([turned.real, turned.imag], -1)

    module.rotate = rotate


def two_pass_norm(module: Any) -> None:
    def norm(x: Tensor) -> Tensor:
        centred = x - x.sum(-1, keepdim=True) / HIDDEN
        return centred * (module.weight / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()) + module.shift

    module.norm = norm


LAWFUL: dict[str, Alter] = {
    "products in blocks of K": blocked_products,
    "q, k and v in one product": fused_queries_keys_values,
    "scale folded into weights": scale_in_the_weights,
    "softmax over blocks of keys": online_softmax,
    "masked with -inf": wraps("softmax", lambda softmax, x: softmax(x.masked_fill(x == -1e9, -math.inf))),
    "masked with finfo.min": wraps("softmax", lambda softmax, x: softmax(x.masked_fill(x == -1e9, -3.4e38))),
    "softmax without its maximum": wraps("softmax", lambda _, x: x.exp() / x.exp().sum(-1, keepdim=True)),
    "rotary by complex numbers": complex_rotary,
    "norm written out": two_pass_norm,
    "gelu written out": sets(activate=lambda x: 0.5 * x * (1 + torch.erf(x * 0.5**0.5))),
    "tanh by exponentials": sets(capped=lambda x: 20 * (1 - 2 / (torch.exp(x / 10) + 1))),
    "mean by a product": sets(
        pool=lambda hidden, mask: ((mask.float() / mask.sum(1, keepdim=True))[:, None] @ hidden)[:, 0]
    ),
}


class Built:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def run(self, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in self.module(*map(torch.from_numpy, inputs)).values()]


class Remembered(Reference):
    """The same reference for every fault: each case is run once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ran: dict[str, Any] = {}
        self.ran_in_float64: dict[str, Any] = {}

    def run(self, case: Case) -> Any:
        if case.name not in self.ran:
            self.ran[case.name] = super().run(case)
        return self.ran[case.name]

    def exact(self, case: Case) -> Any:
        if case.name not in self.ran_in_float64:
            self.ran_in_float64[case.name] = super().exact(case)
        return self.ran_in_float64[case.name]


@dataclass
class Setup:
    module: Model
    reference: Reference
    cases: list[Case]

    def verify(self, alter: Alter) -> Accuracy:
        module = copy.deepcopy(self.module)
        with torch.no_grad():
            alter(module)
        return verify(Built(module), self.reference, self.cases, signature=self.reference.signature)


@pytest.fixture(scope="module")
def setup() -> Setup:
    seed = int(os.environ["INGOT_SEED"])
    torch.manual_seed(seed)
    module = Model().eval()
    ids, mask = torch.randint(0, WORDS, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    call = take_apart(module.forward, (ids, mask), {})
    signature = Signature(
        (
            Declared("ids", "int64", ("batch", "sequence"), Domain(0, WORDS - 1)),
            Declared("mask", "int64", ("batch", "sequence"), Domain(0, 1, "mask")),
        ),
        (
            Declared("hidden", "float32", ("batch", "sequence", HIDDEN)),
            Declared("pooled", "float32", ("batch", HIDDEN)),
            Declared("best", "int64", ("batch",)),
        ),
        (Dim("batch"), Dim("sequence", 1, 512)),
        call.trees,
        {"dict": {"hidden": {"tensor": 0}, "pooled": {"tensor": 1}, "best": {"tensor": 2}}},
    )
    drawn = cases(signature, [ids.numpy(), mask.numpy()], seed=seed)
    return Setup(module, Remembered(module, signature, call), drawn)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_rejected(setup: Setup, name: str) -> None:
    with pytest.raises(VerificationError, match="does not compute what the model computes"):
        setup.verify(FAULTS[name])


@pytest.mark.parametrize("name", LAWFUL)
def test_a_lawful_build_is_accepted(setup: Setup, name: str) -> None:
    accuracy = setup.verify(LAWFUL[name])
    assert accuracy.worst.measure.worst_db >= 100
    assert not accuracy.worst.measure.within_noise


class Hashed(nn.Module):
    """x [B, 8] -> y [B, 16], by a number that float32 rounds and float64 does not."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.table((x * 1e7).sum(-1).round().long() % 64))


class Chaotic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * 3e7)


def negated(y: Tensor) -> Tensor:
    return -y


def last_zeroed(y: Tensor) -> Tensor:
    return torch.cat([y[:-1], torch.zeros_like(y[-1:])])


class Altered(Built):
    """One output, altered."""

    def __init__(self, module: nn.Module, alter: Callable[[Tensor], Tensor]) -> None:
        super().__init__(module)
        self.alter = alter

    def run(self, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        with torch.no_grad():
            return [self.alter(self.module(*map(torch.from_numpy, inputs))).numpy()]


@pytest.mark.parametrize("kind", [Hashed, Chaotic])
def test_what_rounding_decides_excuses_no_fault(kind: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    module, x = kind().eval(), torch.randn(64, 8)
    call = take_apart(module.forward, (x,), {})
    width = module(x).shape[1]
    signature = Signature(
        (Declared("x", "float32", ("batch", 8)),),
        (Declared("y", "float32", ("batch", width)),),
        (Dim("batch"),),
        call.trees,
        {"tensor": 0},
    )
    reference = Remembered(module, signature, call)
    drawn = cases(signature, [x.numpy()], seed=seed)
    same = verify(Altered(module, torch.clone), reference, drawn, signature=signature)
    assert same.worst.measure.worst_db == math.inf
    for alter in (negated, torch.zeros_like, last_zeroed):
        with pytest.raises(VerificationError, match="PyTorch eager in float64 gives other values"):
            verify(Altered(module, alter), reference, drawn, signature=signature)
