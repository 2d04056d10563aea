"""Compiles the GPU kernels of the operations ahead: a cubin for each architecture, on any machine, without a GPU."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingot.errors import BuildError
from ingot.plugins.declaration import Declaration, Real

ARCHS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120")
"""Enough for every GPU that a TensorRT of today builds for: a cubin runs on later minor versions too."""

_POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}

_ALIGNED = [["tt.divisibility", 16]]
"""What TensorRT allocates is aligned to 256 bytes."""


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code and how it is launched: `warps` of 32 threads and `shared_bytes` a program. Its arguments are the
    inputs (null where absent) and outputs, the numbers among the attributes as float32, and two null pointers."""

    data: bytes
    symbol: str
    warps: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kernel and how it is specialised for one use."""

    kernel: Any
    constants: Mapping[str, Any]
    warps: int
    fuse_multiply_add: bool


def compile_cubins(
    declaration: Declaration,
    archs: Sequence[str],
    *,
    dtype: str,
    sizes: Mapping[str, int],
    attributes: Mapping[str, float | str],
    given: Sequence[str] = (),
) -> dict[str, Cubin]:
    """One kernel for each of `archs`; the same bytes every time, without paths.

    sizes    of the dims that the declaration fixes
    given    names of the optional inputs that are there
    Raises BuildError without Triton, and where it does not compile for an architecture.
    """
    triton = _triton()
    recipe = _recipes()[declaration.name](sizes, attributes, given)
    tensors = [spec.name for spec in [*declaration.inputs, *declaration.outputs]]
    numbers = [attribute.name for attribute in declaration.attributes if isinstance(attribute, Real)]
    signature = {**dict.fromkeys(tensors, _POINTERS[dtype]), **dict.fromkeys(numbers, "fp32")}
    signature |= dict.fromkeys(recipe.constants, "constexpr")
    source = triton.compiler.ASTSource(
        recipe.kernel,
        signature,
        constexprs=dict(recipe.constants),
        attrs={(index,): _ALIGNED for index in range(len(tensors))},
    )
    options = {"num_warps": recipe.warps, "enable_fp_fusion": recipe.fuse_multiply_add}
    made = {}
    for arch in archs:
        target = triton.backends.compiler.GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
        with _by_itself(triton):
            try:
                compiled = triton.compile(source, target=target, options=options)
            except Exception as error:
                raise BuildError(
                    f"Triton does not compile {declaration.name} in {dtype} for {arch}: {_first_line(error)}",
                    fix="other architectures, or the model without it",
                ) from error
        made[arch] = _checked(compiled, declaration, arch)
    return made


def _checked(compiled: Any, declaration: Declaration, arch: str) -> Cubin:
    about = compiled.metadata
    if about.global_scratch_size or about.profile_scratch_size or about.num_ctas != 1:
        raise BuildError(f"Triton's kernel of {declaration.name} for {arch} asks for scratch memory, which it must not")
    return Cubin(compiled.asm["cubin"], about.name, about.num_warps, about.shared)


def _triton() -> Any:
    try:
        import triton
        import triton.backends.compiler
        import triton.compiler
    except ImportError:
        raise BuildError(
            "kernels for GPUs are compiled by Triton, which is not installed", fix="pip install 'triton>=3.9,<3.10'"
        ) from None
    if triton.knobs.runtime.interpret:
        raise BuildError("TRITON_INTERPRET is set, and under it Triton compiles nothing", fix="unset TRITON_INTERPRET")
    return triton


def _recipes() -> Mapping[str, Callable[..., Recipe]]:
    """The kernels of all operations; imported late, for they need Triton."""
    from ingot.plugins.skip_norm import kernel as skip_norm

    def of_skip_norm(sizes: Mapping[str, int], attributes: Mapping[str, Any], given: Sequence[str]) -> Recipe:
        constants = skip_norm.specialise(hidden=sizes["H"], kind=str(attributes["kind"]), bias="bias" in given)
        return Recipe(skip_norm.skip_norm, constants, skip_norm.warps(sizes["H"]), skip_norm.FUSE_MULTIPLY_ADD)

    return {"skip_norm": of_skip_norm}


@contextlib.contextmanager
def _by_itself(triton: Any) -> Iterator[None]:
    """Compiles afresh, whatever lies in the user's cache, and without line numbers: they bring the paths of sources."""
    knobs = triton.knobs
    with tempfile.TemporaryDirectory(prefix="ingot-triton-") as folder, knobs.cache.scope(), knobs.compilation.scope():
        knobs.cache.dir = os.path.join(folder, "cache")
        knobs.compilation.disable_line_info = True
        yield


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
