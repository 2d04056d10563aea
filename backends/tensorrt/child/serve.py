"""Runs the network that a parser made of a staged graph, evaluated on the CPU, in a child that is asked through pipes.

    request    count, then each input: name and array           from the parent
    answer     "ok" and each output, or else, and a text        from the child

Else is "unproven" where a layer is of a kind that is not evaluated, "wrong" where the network does not compute on the
inputs, and "error" where neither can be said.

Texts and arrays are length-prefixed; arrays are framed as .npy, without pickles.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ingot.backends.contract import UnprovenError
from ingot.backends.tensorrt.child.parse import OUTPUT, StageError, load_module, parse, read_spec
from ingot.backends.tensorrt.child.process import TIMEOUT_S, Limits, kill, start
from ingot.backends.tensorrt.failure import SIGNALS, printed
from ingot.errors import BuildError, EngineError

Array = np.ndarray[Any, Any]

_MODULE = "ingot.backends.tensorrt.child.serve"
_LOG = "serve.log"


class NetworkSession:
    """A session of the parser's own network. Safe to call from many threads: they take turns.

    Raises UnprovenError, when it is made or from `run`, where a layer is of a kind that is not evaluated on the CPU;
    `run` raises EngineError where the network does not compute on the inputs: it is not what the graph says.
    """

    def __init__(self, folder: Path, flavour_name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """`folder` holds a staged graph; `flavour_name` is whose parser reads it."""
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._lock = threading.Lock()
        self._limit_seconds = Limits.from_environment().seconds
        self._folder = folder
        with (folder / f"serve-{OUTPUT}").open("wb") as stream:
            self._process = start(_MODULE, [str(folder), flavour_name], output=stream, piped=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        with self._lock:
            try:
                _write_arrays(self._to, dict(zip(self._inputs, inputs, strict=True)))
                self._to.flush()
            except OSError as error:
                raise self._died() from error
            try:
                found = self._answer()
            except KeyboardInterrupt:
                # Half an answer may still be on its way: nothing after it would be understood.
                kill(self._process)
                raise
        return [found[name] for name in self._outputs]

    def close(self) -> None:
        kill(self._process)
        for stream in (self._to, self._from):
            # What could not be flushed to a process that has died is of no use to anyone.
            try:
                stream.close()
            except OSError:
                continue

    def _answer(self) -> dict[str, Array]:
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        if not poll.poll(self._limit_seconds * 1000):
            kill(self._process)
            text = f"evaluating the parser's network took longer than {self._limit_seconds:.0f} s and was stopped"
            raise BuildError(
                text, fix=f"{TIMEOUT_S}={round(self._limit_seconds * 4)}, or smaller upper bounds of the dims"
            )
        try:
            kind = _read_text(self._from)
            if kind == "ok":
                return _read_arrays(self._from)
            text = _read_text(self._from)
        except EOFError as error:
            raise self._died() from error
        if kind == "unproven":
            raise UnprovenError(f"the parser's network cannot be evaluated on the CPU: {text}")
        if kind == "wrong":
            raise EngineError(f"the network that the parser made does not compute: {text}")
        raise BuildError(f"evaluating the parser's network failed: {text}")

    def _died(self) -> BuildError:
        kill(self._process)
        said = printed(self._folder / f"serve-{OUTPUT}")
        code = self._process.returncode
        how = SIGNALS.get(-code, f"ended with exit code {code}")
        return BuildError(f"the process that evaluates the parser's network {how}{f': {said[-1]}' if said else ''}")


def main(arguments: Sequence[str]) -> int:
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not come between the answers.
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    folder, flavour_name = Path(arguments[0]), arguments[1]
    from ingot.backends.tensorrt.log import keep
    from ingot.backends.tensorrt.network.evaluate import EvaluationError, NetworkEvaluator, NotEvaluatedError
    from ingot.backends.tensorrt.plugin.references import references

    try:
        spec = {**read_spec(folder), "flavour": flavour_name}
        trt = load_module(flavour_name)
        parsed = parse(trt, keep(trt, folder / _LOG), spec, folder, to_build=False)
        evaluator = NetworkEvaluator(parsed.network, references())
    except NotEvaluatedError as error:
        _refuse(answers, "unproven", str(error))
        return 1
    except EvaluationError as error:
        _refuse(answers, "error", str(error))
        return 1
    except StageError as error:
        kind = "unproven" if error.kind == "module" else "error"
        _refuse(answers, kind, "; ".join(str(item["message"]) for item in error.items))
        return 1
    _give(answers, {})
    while True:
        try:
            inputs = _read_arrays(requests)
        except EOFError:
            return 0
        try:
            found = evaluator.run(inputs)
        except NotEvaluatedError as error:
            _refuse(answers, "unproven", str(error))
        except EvaluationError as error:
            _refuse(answers, "wrong", str(error))
        except Exception as error:  # noqa: BLE001 the parent raises it
            _refuse(answers, "error", f"{type(error).__name__}: {error}")
        else:
            _give(answers, found)


def _give(stream: IO[bytes], arrays: Mapping[str, Array]) -> None:
    _write_text(stream, "ok")
    _write_arrays(stream, arrays)
    stream.flush()


def _refuse(stream: IO[bytes], kind: str, text: str) -> None:
    _write_text(stream, kind)
    _write_text(stream, text)
    stream.flush()


def _write_arrays(stream: IO[bytes], arrays: Mapping[str, Array]) -> None:
    stream.write(len(arrays).to_bytes(8, "little"))
    for name, array in arrays.items():
        _write_text(stream, name)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
        _write_frame(stream, buffer.getbuffer())


def _read_arrays(stream: IO[bytes]) -> dict[str, Array]:
    count = int.from_bytes(_exactly(stream, 8), "little")
    found = {}
    for _ in range(count):
        name = _read_text(stream)
        found[name] = np.lib.format.read_array(io.BytesIO(_read_frame(stream)), allow_pickle=False)
    return found


def _write_text(stream: IO[bytes], text: str) -> None:
    _write_frame(stream, text.encode(errors="replace"))


def _read_text(stream: IO[bytes]) -> str:
    return _read_frame(stream).decode()


def _write_frame(stream: IO[bytes], data: bytes | memoryview) -> None:
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)


def _read_frame(stream: IO[bytes]) -> bytes:
    return _exactly(stream, int.from_bytes(_exactly(stream, 8), "little"))


def _exactly(stream: IO[bytes], size_bytes: int) -> bytes:
    data = stream.read(size_bytes)
    if len(data) < size_bytes:
        raise EOFError
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
