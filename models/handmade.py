"""Engine files made by hand from a few lines of ONNX text: what the runtime's tests run, without the compiler."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from ingot.backends.cpu.load import LOADER
from ingot.backends.onnxruntime.session import LOCATION
from ingot.file.header import Header, Target, Text
from ingot.file.write import FIRST_MEMBER_OFFSET, Draft, Part
from ingot.signature import Dim, Domain, Signature, Tensor
from ingot.version import __version__

Array = np.ndarray[Any, Any]

ALIGNMENT = 64

ENCODER = """encode (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, 8] embedding) {
    rows = Gather(table, ids)
    ones = Cast <to = 1> (mask)
    last = Constant <value_ints = [-1]> ()
    kept = Unsqueeze(ones, last)
    weighed = Mul(rows, kept)
    one = Constant <value_ints = [1]> ()
    total = ReduceSum <keepdims = 0> (weighed, one)
    count = ReduceSum <keepdims = 0> (kept, one)
    embedding = Div(total, count)
}"""
"""The mean of the embeddings of the tokens that the mask keeps."""

ENCODER_WORDS = 50

ENCODER_SIGNATURE = Signature(
    inputs=(
        Tensor("ids", "int64", ("batch", "sequence"), Domain(0, ENCODER_WORDS - 1)),
        Tensor("mask", "int64", ("batch", "sequence"), Domain(0, 1, "mask")),
    ),
    outputs=(Tensor("embedding", "float32", ("batch", 8)),),
    dims=(Dim("batch"), Dim("sequence", 1, 64)),
    parameters={"ids": {"tensor": 0}, "mask": {"tensor": 1}},
    result={"dict": {"embedding": {"tensor": 0}}},
)


def encoder_table(seed: int) -> Array:
    """The weights of ENCODER: float32 [words, 8]."""
    return np.random.default_rng(seed).standard_normal((ENCODER_WORDS, 8)).astype(np.float32)


def encoder_vectors(seed: int) -> dict[str, Array]:
    """Self-test vectors of ENCODER: one case of two rows, the second padded."""
    table = encoder_table(seed)
    out = np.stack([table[[1, 2, 3]].mean(0), table[[4, 5]].mean(0)]).astype(np.float32)
    ids, mask = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 1, 1], [1, 1, 0]])
    return {"user/in/ids": ids, "user/in/mask": mask, "user/out/embedding": out}


TEXT_WORDS = tuple(f"w{number}" for number in range(40))
"""What `word_tokenizer` knows; word i has the id i + 3."""


def word_tokenizer() -> bytes:
    """[CLS] and words by white space, in the format of `tokenizers`; its own padding and truncation are for another
    use than an embedder's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[UNK]": 2} | {word: 3 + index for index, word in enumerate(TEXT_WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    made.enable_padding(length=40)
    made.enable_truncation(2)
    return str(made.to_str()).encode()


def write_text_encoder(path: Path, seed: int, *, tokenizer: bytes | None = None, **settings: Any) -> Path:
    """ENCODER from raw text, at most 12 tokens, with the prompts "query" and "document"; `settings` are Text's."""
    usual: dict[str, Any] = {
        "tokenizer": "tokenizer.json",
        "inputs": {"ids": "ids", "mask": "mask"},
        "max_tokens": 12,
        "pad_id": 0,
        "output": "embedding",
        "prompts": {"query": "w0 w1 ", "document": ""},
        "default_prompt": None,
    }
    content = word_tokenizer() if tokenizer is None else tokenizer
    return write_encoder(path, seed, text=Text(**usual | settings), tokenizer=content)


def write_encoder(path: Path, seed: int, **more: Any) -> Path:
    """A small embedding engine on token ids."""
    return write_engine(path, ENCODER, ENCODER_SIGNATURE, {"table": encoder_table(seed)}, **more)


def write_engine(
    path: Path,
    graph: str,
    signature: Signature,
    weights: Mapping[str, Array] | None = None,
    *,
    before: Sequence[Target] = (),
    verification: str = "full",
    text: Text | None = None,
    tokenizer: bytes = b"",
    selftest: Mapping[str, Array] | None = None,
    record: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Path:
    """`graph` is ONNX text from the graph's name on; `weights` are its initializers, kept outside of it as a compiled
    engine's are; `selftest` is by "case/in/NAME" and "case/out/NAME"; `before` are targets
    that stand in front of cpu; `renamed` gives inputs names that the text cannot spell ("batch.left")."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {graph}')
    for name, new in (renamed or {}).items():
        _rename(proto.graph, name, new)
    packed = bytearray()
    for name, array in (weights or {}).items():
        packed += bytes(-len(packed) % ALIGNMENT)
        proto.graph.initializer.append(_external(name, array, FIRST_MEMBER_OFFSET + len(packed)))
        packed += array.tobytes()
    parts = [Part.of("weights.bin", bytes(packed)), Part.of("graph.onnx", proto.SerializeToString())]
    if text is not None:
        parts.append(Part.of(text.tokenizer, tokenizer))
    if selftest is not None:
        parts.append(Part.of("selftest.npz", _npz(selftest)))
    cpu = Target("cpu", {"graph": "graph.onnx", "weights": "weights.bin"}, LOADER.needs)
    header = Header(
        name=path.stem,
        signature=signature,
        targets=(*before, cpu),
        verification=verification,
        numerics="fast",
        versions={"ingot": __version__},
        text=text,
        selftest=None if selftest is None else "selftest.npz",
    )
    with Draft(path.parent, path.name, header, parts) as draft:
        draft.finish(record or {})
        draft.publish(path)
    return path


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    for value in graph.input:
        value.name = new if value.name == name else value.name
    for node in graph.node:
        node.input[:] = [new if used == name else used for used in node.input]


def _external(name: str, array: Array, offset: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    place = {"location": LOCATION.decode(), "offset": str(offset), "length": str(array.nbytes)}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _npz(arrays: Mapping[str, Array]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, (1, 0))
            archive.writestr(f"{name}.npy", content.getvalue())
    return stream.getvalue()
