"""From raw text to embeddings: tokenize once, run in batches of like length, give back in the order of the texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ingot.errors import FormatError, InputError, RequirementError, UsageError
from ingot.file.header import Text
from ingot.runtime.arrays import Array, array_dtype
from ingot.runtime.check import naming
from ingot.runtime.engine import Engine
from ingot.runtime.open import open_engine
from ingot.signature import Axis, Dim, Tensor

TOKENS_PER_RUN = 256
"""A run of several texts holds at most this many tokens, padding included.

So many fill a matrix product, and their activations stay in a core's cache: MiniLM on one thread takes 1.08 times as
long for 200 texts with runs of 512, 1.8 times with runs of 4096. Small runs of like lengths also pad least.
"""


class Embedder:
    """An engine with its tokenizer. Safe to use from many threads.

    with ingot.Embedder("minilm.ingot") as embedder:
        vectors = embedder.encode(["a sentence", "another"])        float32 [2, H]
    """

    def __init__(
        self, engine: str | os.PathLike[str] | Engine, *, target: str | None = None, threads: int | None = None
    ) -> None:
        """From a file, with `target` and `threads` as for `ingot.load`, or an engine, which the caller goes on owning.

        Raises UsageError where the engine does not go from text to embeddings, RequirementError where the library
        `tokenizers` is missing, and what `ingot.load` raises.
        """
        if isinstance(engine, Engine):
            if target is not None or threads is not None:
                raise UsageError(
                    "target and threads belong to the engine, which is loaded already", fix="Embedder(path)"
                )
            self.engine, self._owned = engine, None
        else:
            self.engine = self._owned = open_engine(engine, target=target, threads=threads)
        try:
            with naming(str(self.engine.path)):
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        engine, text = self.engine, self.engine.header.text
        if text is None:
            raise UsageError(
                f"engine '{engine.name}' carries no tokenizer: it takes {', '.join(map(str, engine.inputs))}",
                fix="compile a sentence-transformers folder: ingot compile FOLDER -o model.ingot",
            )
        self._text = text
        self._rows, self._width, self.dimension = _layout(engine, text)
        self.max_tokens = min(text.max_tokens, self._width.max or text.max_tokens)
        self._tokenizer = _read_tokenizer(engine.member(text.tokenizer), self.max_tokens)
        self._inputs = {kind: (name, _input(engine, name)) for kind, name in text.inputs.items()}

    @property
    def prompts(self) -> dict[str, str]:
        """What the model wants in front of a text, by the purpose's name ("query", "document")."""
        return dict(self._text.prompts)

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 32,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Array:
        """float32 [len(texts), H] in the order of `texts`; [H] for a single string.

        A text longer than `max_tokens` is cut. `batch_size` is the most texts in one run. `prompt` is put in front of
        every text, `prompt_name` takes one of `prompts`; without either the model's own default, if it has one.
        Raises InputError for texts or a prompt that are none, UsageError for an unknown prompt.
        """
        if isinstance(texts, str):
            vector: Array = self.encode([texts], batch_size=batch_size, prompt_name=prompt_name, prompt=prompt)[0]
            return vector
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}, which is no count of texts", fix="batch_size=32")
        prefix = self._prefix(prompt_name, prompt)
        encodings = self._tokenize([prefix + text for text in _checked(texts)])
        embeddings = np.empty((len(encodings), self.dimension), np.float32)
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        for chosen in self._batches(lengths, batch_size):
            batch = self._batch([encodings[index] for index in chosen], lengths[chosen])
            embeddings[chosen] = self.engine.run_named(batch)[self._text.output][: len(chosen)]
        return embeddings

    def close(self) -> None:
        """Closes the engine if it was opened here."""
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Embedder {self.engine.name}: at most {self.max_tokens} tokens -> float32 [{self.dimension}]>"

    def _prefix(self, name: str | None, prompt: str | None) -> str:
        prompts = self._text.prompts
        if name is not None and prompt is not None:
            raise UsageError("prompt and prompt_name are both given", fix="one of them")
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"prompt is {prompt!r:.40}, a {type(prompt).__name__} and no string", fix="prompt='…: '")
        if name is not None and (not isinstance(name, str) or name not in prompts):
            has = ", ".join(map(repr, prompts)) or "none"
            raise UsageError(f"engine '{self.engine.name}' has no prompt '{name}'; it has {has}", fix="prompt='…: '")
        if prompt is not None:
            return prompt
        name = name if name is not None else self._text.default_prompt
        return "" if name is None else prompts[name]

    def _tokenize(self, texts: list[str]) -> list[Any]:
        try:
            encodings: list[Any] = self._tokenizer.encode_batch_fast(texts)
        except (TypeError, UnicodeError) as error:
            index = next((i for i, text in enumerate(texts) if not _is_unicode(text)), None)
            if index is None:
                raise
            raise InputError(f"text {index} holds half a surrogate pair, which is no character") from error
        return encodings

    def _batches(self, lengths: Array, batch_size: int) -> Iterator[Array]:
        """Indices of texts, the longest first, so that neighbours are of like length and little is padding."""
        order = np.argsort(-lengths, kind="stable")
        most = min(batch_size, self._rows.max or batch_size)
        start = 0
        while start < len(order):
            width = max(int(lengths[order[start]]), self._width.min)
            rows = min(most, max(1, TOKENS_PER_RUN // width))
            yield order[start : start + rows]
            start += rows

    def _batch(self, encodings: Sequence[Any], lengths: Array) -> dict[str, Array]:
        """Inputs by name. An engine of a fixed size gets rows and columns of padding."""
        shape = max(len(encodings), self._rows.min), max(int(lengths.max()), self._width.min, 1)
        batch = {}
        for kind, (name, tensor) in self._inputs.items():
            values = np.full(shape, self._text.pad_id if kind == "ids" else 0, array_dtype(tensor))
            for row, encoding in enumerate(encodings):
                if kind == "mask":
                    values[row, : lengths[row]] = 1
                else:
                    values[row, : lengths[row]] = encoding.ids if kind == "ids" else encoding.type_ids
            if kind == "mask":
                values[len(encodings) :, 0] = 1
            batch[name] = values
        return batch


def _checked(texts: object) -> list[str]:
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts is {type(texts).__name__}, not strings", fix="encode('a text') or encode(['a', 'b'])")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputError(f"text {index} is {text!r:.40}, a {type(text).__name__} and no string", fix="str(text)")
    return listed


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _layout(engine: Engine, text: Text) -> tuple[Dim, Dim, int]:
    """The rows and the width that a batch may have, and the width of an embedding."""
    fed = {name: _input(engine, name) for name in text.inputs.values()}
    unfed = [tensor.name for tensor in engine.inputs if tensor.name not in fed]
    output = next((tensor for tensor in engine.outputs if tensor.name == text.output), None)
    shapes = {tensor.shape for tensor in fed.values()}
    known = text.inputs.keys() <= {"ids", "mask", "types"} and "ids" in text.inputs
    if unfed or not known or len(shapes) != 1 or len(engine.inputs[0].shape) != 2:
        raise FormatError(f"the header does not say how text becomes {', '.join(map(str, engine.inputs))}")
    if output is None or len(output.shape) != 2 or not isinstance(output.shape[1], int):
        raise FormatError(f"'{text.output}', which the header calls the embedding, is not an output [batch, H]")
    if text.default_prompt is not None and text.default_prompt not in text.prompts:
        raise FormatError(f"the default prompt '{text.default_prompt}' is not one of the prompts")
    rows, width = (_sizes(engine, axis) for axis in shapes.pop())
    return rows, width, output.shape[1]


def _input(engine: Engine, name: str) -> Tensor:
    found = next((tensor for tensor in engine.inputs if tensor.name == name), None)
    if found is None:
        raise FormatError(f"the header turns text into '{name}', which is no input")
    return found


def _sizes(engine: Engine, axis: Axis) -> Dim:
    if isinstance(axis, int):
        return Dim(str(axis), axis, axis)
    dim = next((dim for dim in engine.dims if dim.name == axis), None)
    if dim is None:
        raise UsageError(f"an axis '{axis}' cannot be filled with text", fix="compile with plain dims: batch,sequence")
    return dim


def _read_tokenizer(content: bytes, max_tokens: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise RequirementError(
            "turning text into tokens needs the library tokenizers", fix="pip install 'ingot-compiler[text]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_buffer(content)
        # A tokenizer.json may bring truncation and padding of its own, for another use than this.
        tokenizer.enable_truncation(max_tokens)
        tokenizer.no_padding()
    except Exception as error:  # the library raises nothing narrower
        raise FormatError(f"the tokenizer is not readable: {error}") from error
    return tokenizer
