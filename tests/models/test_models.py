"""Every model of the catalogue builds, runs eagerly, and is the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from ingot.frontend.structure import flatten, take_apart
from ingot.models import llama
from ingot.models.catalogue import CATALOGUE, Entry
from ingot.models.example import Example


@pytest.fixture(params=CATALOGUE, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Each of the catalogue, real weights fetched first."""
    if request.param.name == "minilm":
        request.getfixturevalue("minilm_folder")
    found: Entry = request.param
    return found


def run(example: Example) -> list[torch.Tensor]:
    with torch.no_grad():
        return flatten(example.module(*example.args, **example.kwargs))[0]


def dims_of(shapes: object) -> set[str]:
    """The names of the dims that a spec of dynamic shapes mentions."""
    if isinstance(shapes, torch.export.Dim):
        return {getattr(shapes, "root", shapes).__name__}
    items = shapes.values() if isinstance(shapes, dict) else shapes if isinstance(shapes, tuple | list) else ()
    return set().union(*map(dims_of, items))


def test_runs_eagerly_and_repeats_with_its_seed(entry: Entry, seed: int) -> None:
    example = entry.build(seed)
    first = run(example)
    assert first
    assert all(bool(torch.isfinite(value).all()) for value in first)
    for value, again in zip(first, run(entry.build(seed)), strict=True):
        assert torch.equal(value, again)
    assert not example.module.training


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if entry.name != "minilm"], ids=lambda entry: entry.name
)
def test_another_seed_gives_other_weights(entry: Entry, seed: int) -> None:
    one, other = entry.build(seed).module.state_dict(), entry.build(seed + 1).module.state_dict()
    same = [name for name in one if one[name].is_floating_point() and torch.equal(one[name], other[name])]
    assert same == []


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if entry.name != "minilm"], ids=lambda entry: entry.name
)
def test_building_leaves_the_random_state_alone(entry: Entry, seed: int) -> None:
    before = torch.random.get_rng_state()
    entry.build(seed)
    assert torch.equal(before, torch.random.get_rng_state())


def test_sizes_name_every_dynamic_dim_and_differ_from_the_example(entry: Entry, seed: int) -> None:
    example = entry.build(seed)
    names = dims_of(example.dynamic_shapes)
    assert names
    call = take_apart(example.module.forward, example.args, example.kwargs)
    assert set(example.dynamic_shapes) <= set(call.trees)
    for sizes in entry.sizes:
        assert set(sizes) == names
        assert sizes["batch"] != call.tensors[0].shape[0]


@pytest.mark.parametrize("size_bytes", [512 << 20, 1 << 30])
def test_the_large_llama_is_as_large_as_asked(size_bytes: int, seed: int) -> None:
    # On the meta device, so that nothing is allocated.
    with torch.device("meta"):
        module = llama.large(seed, size_bytes=size_bytes).module
    assert sum(weight.nbytes for weight in module.parameters()) == pytest.approx(size_bytes, rel=0.15)
