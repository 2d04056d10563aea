"""What TensorRT says at load and while running: its last errors, kept so that ours tell the reason."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from ingot.backends.tensorrt.log import readable

_KEPT = 64
_SHOWN = 3
_LONGEST_CHARACTERS = 400
_ERROR = 1

loggers: dict[str, Messages] = {}
"""By the package's name."""

_lock = threading.Lock()


class Messages:
    """`logger` is the ILogger that fills it. TensorRT keeps to the first logger of a process: so there is one."""

    def __init__(self, trt: Any) -> None:
        self._kept: deque[tuple[int, int, str]] = deque(maxlen=_KEPT)
        kept = self._kept

        class Kept(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= _ERROR:
                    kept.append((threading.get_ident(), int(severity), message))

        self.logger = Kept()

    def clear(self) -> None:
        """Forgets what this thread caused."""
        mine = threading.get_ident()
        for item in list(self._kept):
            if item[0] == mine:
                try:
                    self._kept.remove(item)
                except ValueError:  # another thread's message pushed it out
                    continue

    def said(self) -> str:
        """This thread's last errors, without the places in TensorRT's own sources; "it gives no reason"."""
        mine = threading.get_ident()
        texts = dict.fromkeys(readable(text)[:_LONGEST_CHARACTERS] for who, _, text in list(self._kept) if who == mine)
        return "; ".join([text for text in texts if text][-_SHOWN:]) or "it gives no reason"


def messages_of(trt: Any) -> Messages:
    with _lock:
        return loggers.setdefault(trt.__name__, Messages(trt))
