"""all-MiniLM-L6-v2, the real weights, from the folder that `python -m ingot.models.fetch minilm FOLDER` made."""

from __future__ import annotations

import os
from pathlib import Path

from ingot.models.example import Example


def folder() -> Path | None:
    """The folder in INGOT_MODEL_CACHE (.model-cache by default); None where it was not fetched."""
    home = Path(os.environ.get("INGOT_MODEL_CACHE", ".model-cache")) / "minilm"
    return home if (home / "model.safetensors").is_file() else None


def build(seed: int = 0) -> Example:
    """Token ids to a sentence embedding. The weights are what they are, so `seed` changes nothing.

    Raises FileNotFoundError where the weights were not fetched.
    """
    from ingot.frontend.source import resolve

    home = folder()
    if home is None:
        raise FileNotFoundError("python -m ingot.models.fetch minilm .model-cache/minilm brings the weights")
    source = resolve(home)
    return Example(source.module, source.args, source.kwargs, source.dynamic_shapes or {})
