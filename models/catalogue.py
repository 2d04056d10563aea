"""The list of the small models, each with dims to run it at that differ from its example inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ingot.models import llama, minilm, recurrent, residual, structured, tiny, transformer
from ingot.models.example import Example


@dataclass(frozen=True, slots=True)
class Entry:
    """`build` makes the model from a seed; `sizes` are values of all its dims by name, ones and bounds among them."""

    name: str
    build: Callable[[int], Example]
    sizes: tuple[dict[str, int], ...]


CATALOGUE = (
    Entry("tiny", tiny.build, ({"batch": 1}, {"batch": 3})),
    Entry("minilm", minilm.build, ({"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 37})),
    Entry(
        "residual",
        residual.build,
        ({"batch": 1, "height": 16, "width": 128}, {"batch": 3, "height": 45, "width": 33}),
    ),
    Entry("vision_transformer", transformer.vision_transformer, ({"batch": 1}, {"batch": 5})),
    Entry("gpt", transformer.gpt, ({"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 64})),
    Entry("llama", llama.build, ({"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 128})),
    Entry(
        "encoder_decoder",
        transformer.encoder_decoder,
        ({"batch": 1, "source": 48, "target": 1}, {"batch": 3, "source": 5, "target": 48}),
    ),
    Entry("recurrent", recurrent.build, ({"batch": 1}, {"batch": 3})),
    Entry("nested", structured.nested, ({"batch": 1}, {"batch": 7})),
    Entry("mirror", structured.mirror, ({"batch": 1, "length": 1}, {"batch": 3, "length": 100})),
)
