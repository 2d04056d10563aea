"""A plugin layer evaluated by its reference: inputs by name, attributes of the plugin."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ingot.backends.tensorrt.plugin.references import references
from ingot.plugins.declared import DECLARED
from ingot.plugins.skip_norm.reference import skip_norm


def test_every_declared_operation_has_one() -> None:
    assert set(references()) == set(DECLARED)


def test_inputs_go_by_name(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, residual = torch.randn(2, 3, 8, generator=generator), torch.randn(2, 3, 8, generator=generator)
    weight = torch.randn(8, generator=generator)
    attributes = {"epsilon": 0.5, "kind": "layer"}
    plugin = SimpleNamespace(
        declaration=DECLARED["skip_norm"], inputs=("x", "residual", "weight"), attributes=attributes
    )
    got = references()["skip_norm"](plugin, [x, residual, weight])
    expected = skip_norm(x, residual, weight, epsilon=0.5, kind="layer")
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
