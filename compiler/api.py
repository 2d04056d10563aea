"""The story on a screen: compile a model, load its engine file, check whether a machine can run one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ingot.file.read import EngineFile
from ingot.machine import default_threads
from ingot.runtime.absent import Absent
from ingot.runtime.check import check_file as check
from ingot.runtime.check import check_targets
from ingot.runtime.engine import Engine
from ingot.runtime.open import engine_of
from ingot.runtime.open import open_engine as load

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ingot.frontend.source import Source
    from ingot.pipeline import CompileOptions

__all__ = ["check", "compile", "load"]


def compile(
    model: str | os.PathLike[str] | torch.nn.Module | Callable[[], Any],
    inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    target: str = "cpu",
    arch: str | None = None,
    verify: Literal["full", "quick", "off"] = "full",
    threads: int | None = None,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Engine:
    """A verified engine of `model`; `save(path)` writes it as one file that loads without PyTorch.

    Where this machine runs none of the targets, the engine is there to be saved, and a call raises RequirementError.

    model           an nn.Module (compiled as in eval mode, and left as it was), a Hugging Face or
                    sentence-transformers folder, or "package.module:name"
    inputs          one call's arguments: a tensor or array, a tuple of positional ones, or a dict by parameter name;
                    a folder brings its own
    dynamic_shapes  torch.export's form, names as strings too: {"x": {0: "batch", 1: Dim("sequence", max=512)}};
                    by default the batch varies, and the sequence of integer inputs
    target          what it is built for: "cpu", "cuda", "tensorrt", "tensorrt-rtx", or several: "cpu,tensorrt-rtx"
    arch            the GPU architectures to build for: "sm_89,sm_120"; by default this machine's
    verify          "full": PyTorch eager on the user's inputs and on drawn ones at other sizes, padded too;
                    "quick": the user's inputs; "off": nothing, and `load` then refuses the file unless told otherwise
    threads         of a run; by default the least of affinity, cgroup quota and physical cores
    translations    {torch operator overload: function over onnxscript's opset}, for operators of your own

    Raises UsageError for what cannot be meant and CompileError for what cannot become an engine; see ingot.errors.
    """
    # The compiler's imports: production, which only loads, never comes here.
    from pathlib import Path

    from ingot.backends.targets import split
    from ingot.frontend.source import load_inputs, resolve
    from ingot.pipeline import CompileOptions

    if isinstance(inputs, str | Path):
        inputs = load_inputs(inputs)
    options = CompileOptions(
        split(target),
        split(arch) if arch else (),
        verify,
        default_threads() if threads is None else threads,
        dynamic_shapes,
        translations or {},
    )
    return _compiled(resolve(Path(model) if isinstance(model, os.PathLike) else model, inputs), options)


def _compiled(source: Source, options: CompileOptions) -> Engine:
    import shutil
    import tempfile
    from functools import partial
    from pathlib import Path

    from ingot.backends.targets import check_buildable
    from ingot.pipeline import compile_source
    from ingot.progress import Silent

    check_buildable(options.targets)
    # No TemporaryDirectory: that of a forked child would remove the parent's file when the child ends.
    home = Path(tempfile.mkdtemp(prefix="ingot-"))
    clean_up = partial(shutil.rmtree, home, ignore_errors=True)
    try:
        draft = compile_source(source, options, folder=home, progress=Silent())
        path = home / f"{source.name}.ingot"
        draft.publish(path)
        return _opened(path, options.threads, clean_up)
    except BaseException:
        clean_up()
        raise


def _opened(path: Path, threads: int, on_close: Callable[[], None]) -> Engine:
    """The engine just made, on the best of its targets that runs here, its file gone with it."""
    file = EngineFile.open(path)
    checks = check_targets(file.header)
    if any(check.runs for check in checks):
        return engine_of(file, None, threads=threads, on_close=on_close)
    target = file.header.target(checks[0].name)
    assert target is not None
    return Engine(file, target, Absent(checks), threads=threads, why="none runs here", on_close=on_close)
