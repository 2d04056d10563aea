"""What a file that is no engine file is instead, told by its first bytes, so that the error can say what to type."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """`name` says what the file is, None where that is not known; `fix` what to type next."""

    name: str | None
    fix: str

    @property
    def what(self) -> str:
        return "this is not an engine file" if self.name is None else f"this is {self.name}, not an engine file"


_AGAIN = "copy or download the file again, or compile the model again"
_COMPILE = "ingot compile MODEL -o model.ingot makes an engine file"
_CHECKPOINT = "ingot compile FOLDER, with the Hugging Face folder that the file belongs to"

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", Kind("another zip archive (an .npz, .pt, .pt2, .whl …)", _COMPILE)),
    (b"GGUF", Kind("a GGUF file", _CHECKPOINT)),
    (b"\x80\x02", Kind("a pickle", _CHECKPOINT)),
    (b"version https://git-lfs", Kind("a pointer that Git LFS left in place of the file", "git lfs pull")),
    (b"\x1f\x8b", Kind("a gzip archive", "gunzip FILE")),
    (b"<", Kind("a web page or XML", "download again, from the address of the file itself")),
)

# A model's first field is its IR version, a small number; one of these begins the next field.
_ONNX_NEXT = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")


def kind_of(start: bytes) -> Kind | None:
    """By a file's first bytes; None where they are an engine file's."""
    if not start:
        return Kind("an empty file", _AGAIN)
    if not any(start):
        return Kind("zeros, as a crash can leave", _AGAIN)
    if start[:4] == b"PK\x03\x04" and start[30:41] == b"header.json":
        return None
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if len(start) > 2 and start[0] == 0x08 and 0 < start[1] < 32 and start[2] in _ONNX_NEXT:
        return Kind("an ONNX model", "ingot compile takes PyTorch models: package.module:name, or a folder")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30:
        return Kind("a safetensors file", _CHECKPOINT)
    return Kind(None, _COMPILE)
