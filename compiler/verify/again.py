"""Holds an engine file to its model once more: on this machine, on inputs drawn afresh."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.errors import UsageError
from ingot.frontend.source import load_inputs, resolve
from ingot.frontend.structure import Call, take_apart
from ingot.runtime.engine import Engine
from ingot.signature import Signature
from ingot.verify.draw import cases
from ingot.verify.reference import Reference, to_numpy
from ingot.verify.verify import Accuracy, verify

Array = np.ndarray[Any, Any]

AGAIN = "compile the model again here, or open this machine's difference as an issue"


@dataclass(frozen=True, slots=True)
class _Flat:
    engine: Engine

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return self.engine.run_flat(inputs)


def verify_again(engine: Engine, model: Any, *, inputs: Any = None, seed: int | None = None) -> Accuracy:
    """Every case that a compile would run, at sizes and with values drawn from `seed` (another each time).

    `model` and `inputs` are what `ingot.compile` takes. Raises VerificationError as a compile does, UsageError where
    the model does not take what the engine takes.
    """
    source = resolve(model, load_inputs(inputs) if isinstance(inputs, str) else inputs)
    call = take_apart(source.module.forward, source.args, source.kwargs)
    signature = engine.header.signature
    _check_inputs(call, signature, engine.name)
    chosen = secrets.randbelow(2**31) if seed is None else seed
    drawn = cases(signature, [to_numpy(tensor) for tensor in call.tensors], seed=chosen)
    reference = Reference(source.module, signature, call, seed=chosen)
    return verify(
        _Flat(engine), reference, drawn, signature=signature, seed=chosen, fix=f"--seed {chosen} replays; {AGAIN}"
    )


def _check_inputs(call: Call, signature: Signature, engine: str) -> None:
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in call.tensors]
    ranks = [tensor.dim() for tensor in call.tensors]
    given = list(zip(call.names, dtypes, ranks, strict=True))
    if given != [(tensor.name, tensor.dtype, len(tensor.shape)) for tensor in signature.inputs]:
        takes = ", ".join(map(str, signature.inputs))
        instead = ", ".join(f"{name} {dtype} of {rank} axes" for name, dtype, rank in given)
        raise UsageError(
            f"engine '{engine}' is of another model, or of another call of it: it takes {takes}; this one {instead}",
            fix="the model and example inputs that the engine was compiled from",
        )
