"""PyTorch eager as the reference: the module in eval mode on copies of a case's inputs, and its own rounding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from ingot.errors import SourceError
from ingot.frontend.failure import user_line
from ingot.frontend.structure import Call, evaluating, flatten
from ingot.runtime.metrics import measure
from ingot.signature import Signature, Tree, children, linear
from ingot.verify.draw import Case, dim_sizes
from ingot.verify.float64 import in_float64, widened_copy

Array = np.ndarray[Any, Any]

# What a forward raises where sizes or dtypes do not fit it; anything else is a fault of ours and is not dressed up.
RAISED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


KEPT_BYTES = 1 << 20
"""Results up to here are computed once."""


class Reference:
    """Runs a module on cases. Holds no copy of its weights, and leaves its training flags and torch's RNG alone.

    `call` is the example call taken apart: it says where each flat input goes.
    """

    def __init__(self, module: torch.nn.Module, signature: Signature, call: Call, *, seed: int = 0) -> None:
        self.module = module
        self.signature = signature
        self.call = call
        self.seed = seed
        self._kept: dict[int, tuple[Case, tuple[Array, ...]]] = {}

    def run(self, case: Case) -> tuple[Array, ...]:
        """The outputs in the order of the signature; bfloat16 as its bits in uint16. Small ones are kept: the self-test
        vectors and verification ask for the same cases.

        Raises SourceError when the module raises, or gives another structure than it did when traced.
        """
        if id(case) in self._kept:
            return self._kept[id(case)][1]
        outputs = self._run(case)
        if sum(array.nbytes for array in outputs) <= KEPT_BYTES:
            self._kept[id(case)] = case, outputs
        return outputs

    def check_repeats(self, case: Case) -> None:
        """Raises SourceError where a second call with the same inputs gives something else."""
        first, second = self.run(case), self._run(case)
        for tensor, before, after in zip(self.signature.outputs, first, second, strict=True):
            if not measure(before, after, tensor.dtype).holds:
                raise SourceError(
                    f"the model gives another '{tensor.name}' when it is called again with the same inputs: forward "
                    "keeps something between calls, and an engine keeps nothing",
                    fix="take what it keeps as an input, and return the new value as an output",
                )

    def _run(self, case: Case) -> tuple[Array, ...]:
        try:
            with evaluating(self.module):
                result = self._forward(self.module, case, wide=False)
        except RAISED as error:
            raise SourceError(
                f"the model itself raises on inputs that its declared shapes allow, {case.name}: "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                where=user_line(error),
                fix=self._narrower(case),
            ) from error
        tensors, tree = flatten(result)
        difference = tree_difference(self.signature.result, tree)
        if difference:
            raise SourceError(
                f"the model's result has another structure than when it was traced, {case.name}: {difference}",
                fix="return the same structure at every size, or fix the dims that it depends on",
            )
        return tuple(to_numpy(tensor) for tensor in tensors)

    def exact(self, case: Case) -> tuple[Array, ...] | None:
        """The outputs computed in float64 (integers and bools as they come), on a copy of the weights that is gone
        afterwards; None where the module cannot be copied or cannot run in float64."""
        try:
            with evaluating(self.module):
                tensors, _ = flatten(self._forward(widened_copy(self.module), case, wide=True))
        except RAISED:
            return None
        return tuple(to_numpy(tensor) for tensor in tensors)

    def _narrower(self, case: Case) -> str:
        """What to type so that the sizes of `case` are no longer allowed, and those of the example still are."""
        failed = dim_sizes(self.signature, case.inputs)
        works = dim_sizes(self.signature, [to_numpy(tensor) for tensor in self.call.tensors])
        bounds = {}
        for dim in self.signature.dims:
            size, known = failed[dim.name], works[dim.name]
            if size != known:
                bounds[dim.name] = dim._replace(min=known) if size < known else dim._replace(max=known)
        shapes = []
        for tensor in self.signature.inputs:
            named = {form.dim for axis in tensor.shape if isinstance(axis, str) and (form := linear(axis))}
            if named & bounds.keys():
                axes = (str(bounds.pop(axis, axis)) if isinstance(axis, str) else str(axis) for axis in tensor.shape)
                shapes.append(f"{tensor.name}={','.join(axes)}")
        if not shapes:
            return "inputs that the model runs on: model(*inputs) in eval mode must work before it can be compiled"
        return (
            f"--shape '{';'.join(shapes)}' narrows the dims to sizes that the model takes, "
            "--verify quick looks at your own inputs alone"
        )

    def _forward(self, module: torch.nn.Module, case: Case, *, wide: bool) -> Any:
        tensors = [
            to_torch(array, example.dtype).to(example.device)
            for array, example in zip(case.inputs, self.call.tensors, strict=True)
        ]
        # no_grad rather than inference_mode: what a forward keeps for later (a table of angles) must still train.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            if not wide:
                args, kwargs = self.call.rebuild(tensors)
                return module(*args, **kwargs)
            with in_float64():
                args, kwargs = self.call.rebuild([t.double() if t.is_floating_point() else t for t in tensors])
                return module(*args, **kwargs)


def tree_difference(declared: Tree, found: Tree, path: str = "") -> str | None:
    """The first path where two trees differ, in words; None where they agree."""
    place = path or "the result"
    if declared.keys() != found.keys() or ("constant" in declared and declared != found):
        return f"{place} is {_kind(found)}, declared is {_kind(declared)}"
    for ours, theirs in zip_longest(children(declared), children(found)):
        if ours is None or theirs is None or ours[0] != theirs[0]:
            names = [f"'{item[0]}'" if item else "nothing" for item in (theirs, ours)]
            return f"{place} has {names[0]} where {names[1]} is declared"
        deeper = tree_difference(ours[1], theirs[1], f"{path}.{ours[0]}" if path else str(ours[0]))
        if deeper:
            return deeper
    return None


def _kind(tree: Tree) -> str:
    if "constant" in tree:
        return repr(tree["constant"])
    return "a tensor" if "tensor" in tree else f"a {next(iter(tree))}"


def to_torch(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """A copy, which a forward may write into."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor.to(dtype)


def to_numpy(tensor: torch.Tensor) -> Array:
    """A copy; bfloat16 as its bits in uint16."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    return np.array(tensor.numpy())


def nan_weights(module: torch.nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold a NaN. Reads every weight once and copies none."""
    named: Sequence[tuple[str, torch.Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in named if tensor.is_floating_point() and not tensor.is_meta and _has_nan(tensor)]


def _has_nan(tensor: torch.Tensor) -> bool:
    # A sum is NaN where an element is, at a tenth of isnan's cost; infinities of both signs also make one.
    if not torch.isnan(tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))):
        return False
    return any(bool(torch.isnan(part).any()) for part in tensor.detach().reshape(-1).chunk(1 + tensor.numel() // 2**22))
