"""Keeps what full TensorRT measured of its kernels, a file for each version and GPU: the next build is quicker."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.cuda_driver import this_driver

_MAGIC = b"ingot timing cache 1\n"


@dataclass(frozen=True, slots=True)
class TimingCache:
    """Where the cache of this machine lies, and how it was found ("new", "read", or why it begins anew)."""

    path: Path
    note: str

    def keep(self, config: Any) -> None:
        """Writes what the build has added, whole or not at all. Raises OSError where that cannot be."""
        data = bytes(config.get_timing_cache().serialize())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(_MAGIC + hashlib.sha256(data).digest() + data)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def attach(trt: Any, config: Any) -> TimingCache:
    """Gives `config` the cache of this TensorRT and GPU, an empty one where there is none or it is damaged."""
    path = _path(trt.__version__)
    data, note = _read(path)
    if not config.set_timing_cache(config.create_timing_cache(data), False):
        note = "begun anew: TensorRT did not take the old one"
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return TimingCache(path, note)


def _path(version: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    gpus = this_driver().gpus
    gpu = re.sub(r"[^\w.]+", "-", gpus[0].name).strip("-").lower() if gpus else "none"
    return Path(home) / "ingot" / f"tensorrt-timing-{version}-{gpu}.cache"


def _read(path: Path) -> tuple[bytes, str]:
    try:
        stored = path.read_bytes()
    except OSError:
        return b"", "new"
    head = len(_MAGIC) + hashlib.sha256().digest_size
    data = stored[head:]
    if stored[:head] != _MAGIC + hashlib.sha256(data).digest():
        return b"", "begun anew: the old one was damaged"
    return data, "read"
