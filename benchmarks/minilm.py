"""The real MiniLM as everybody has it: the folder, our engine of it, the module, and torch's own plain export."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingot
from benchmarks.processes import INGOT, ROOT, run
from ingot.installed import installed_version
from ingot.models.fetch import fetch

if TYPE_CHECKING:
    import onnxruntime

    from ingot.frontend.source import Source

SHAPES = ((1, 16), (1, 128), (8, 64), (32, 128))
"""(batch, length)"""


def cache() -> Path:
    """What the benchmarks make and keep; `make clean` removes it."""
    home = Path(os.environ.get("INGOT_MODEL_CACHE", ROOT / ".model-cache")) / "bench"
    home.mkdir(parents=True, exist_ok=True)
    return home.resolve()


def folder() -> Path:
    """The sentence-transformers folder, downloaded the first time. Raises SourceError where that fails."""
    home = cache().parent / "minilm"
    fetch("minilm", home)
    return home


def engine() -> Path:
    """Our engine of it, compiled again when anything of Ingot is newer."""
    path = cache() / "minilm.ingot"
    if not is_current(path, folder()):
        run([*INGOT, "compile", str(folder()), "-o", str(path), "--quiet"])
    return path


def is_current(path: Path, made_from: Path) -> bool:
    """Whether an engine is newer than its model and than every file of the Ingot that runs here."""
    if not path.is_file():
        return False
    package = Path(ingot.__file__).parent
    sources = [*made_from.iterdir(), *_python_files(package)]
    return path.stat().st_mtime > max(source.stat().st_mtime for source in sources)


def _python_files(package: Path) -> list[Path]:
    """Through links, which a strict editable install and the tests' checkout are made of."""
    walked = os.walk(package, followlinks=True)
    return [Path(home) / name for home, _, names in walked for name in names if name.endswith(".py")]


def source() -> Source:
    """The module that is compiled, pooling and normalisation included, with its example inputs."""
    from ingot.frontend.source import resolve

    return resolve(folder())


def plain_export(model: Source) -> Path:
    """What torch's own exporter makes of the same module with everything at its default; kept by torch's version."""
    import torch

    path = cache() / f"plain-{installed_version('torch')}.onnx"
    if not path.is_file():
        # It tells of every optional package that it did not find.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.module,
                model.args,
                kwargs=model.kwargs,
                dynamic_shapes=model.dynamic_shapes,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        partial = path.with_suffix(".partial")
        program.save(partial, external_data=False)
        partial.rename(path)
    return path


def plain_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime as it comes, but for the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def draw(batch: int, length: int, seed: int) -> dict[str, Any]:
    """Token ids [batch, length] between the two special tokens, nothing padded."""
    import numpy as np

    ids = np.random.default_rng(seed).integers(1000, 30522, (batch, length), dtype=np.int64)
    ids[:, 0], ids[:, -1] = 101, 102
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
