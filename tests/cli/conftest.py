"""An engine file and the command `ingot` run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ingot.cli.main import ingot
from ingot.models.handmade import encoder_vectors, write_encoder

Ingot = Callable[..., Result]


@pytest.fixture
def run_ingot() -> Ingot:
    def run(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(ingot, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def engine_file(tmp_path: Path, seed: int) -> Path:
    """With self-test vectors and a record."""
    declined = ["Mul x: why"]
    passes = [{"name": "fold_constants", "rewrites": 2, "nodes_before": 12, "nodes_after": 9, "declined": declined}]
    vectors = encoder_vectors(seed)
    return write_encoder(tmp_path / "encoder.ingot", seed, selftest=vectors, record={"passes": passes})
