"""The header of an engine file as data: what the engine takes and gives, which targets it carries, and its members.

docs/file-format.md is the specification; this module is its JSON part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ingot.errors import FormatError
from ingot.signature import Signature

FORMAT = 1
"""The format that this version writes."""

OLDEST_READER = 1
"""The oldest format number whose readers understand what this version writes."""

VERIFICATIONS = ("full", "quick", "passes", "off")

NUMERICS = ("fast", "strict")

# Terminals obey control characters, and a lone surrogate cannot be printed at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHA256 = re.compile("[0-9a-f]{64}")


_NONE: Mapping[str, Any] = MappingProxyType({})


class Member(NamedTuple):
    """Where a member's bytes lie in the file, and what they must be.

    `digests` names another member that holds one sha256 (32 raw bytes) for each 4 MiB chunk of a large member;
    then `sha256` is over that list, so that one digest still covers everything. `crc32` is what the zip says of it.
    """

    offset: int
    size_bytes: int
    crc32: int
    sha256: str
    digests: str | None = None


class Target(NamedTuple):
    """One way to run the engine. `members` maps a role that the backend knows ("graph", "weights") to a member's name;
    `needs` states what the machine must have ({"onnxruntime": ">=1.31"}); `options` is the backend's own (JSON)."""

    name: str
    members: Mapping[str, str]
    needs: Mapping[str, str]
    options: Mapping[str, Any] = _NONE


class Text(NamedTuple):
    """How raw text becomes inputs. `tokenizer` names a member in the format of the `tokenizers` library.

    `inputs` maps a tokenizer's output ("ids", "mask", "types") to an input's name; `output` is the embedding's name.
    `prompts` maps a prompt's name to the text put in front; `default_prompt` is one of them, or None.
    """

    tokenizer: str
    inputs: Mapping[str, str]
    max_tokens: int
    pad_id: int
    output: str
    prompts: Mapping[str, str] = _NONE
    default_prompt: str | None = None


class Header(NamedTuple):
    """Everything a reader must know before it touches a member.

    `verification` is one of VERIFICATIONS, `numerics` one of NUMERICS; `versions` says what wrote the file;
    `selftest` names the member with the self-test vectors (an .npz without pickles: "case/in/NAME", "case/out/NAME").
    """

    name: str
    signature: Signature
    targets: tuple[Target, ...]
    verification: str
    numerics: str
    versions: Mapping[str, str]
    text: Text | None = None
    selftest: str | None = None
    members: Mapping[str, Member] = _NONE
    format: int = FORMAT
    oldest_reader: int = OLDEST_READER

    def target(self, name: str) -> Target | None:
        return next((target for target in self.targets if target.name == name), None)

    def to_json(self) -> dict[str, Any]:
        text = self.text
        return {
            "format": self.format,
            "oldest_reader": self.oldest_reader,
            "name": self.name,
            "signature": self.signature.to_json(),
            "targets": [
                {
                    "name": target.name,
                    "members": dict(target.members),
                    "needs": dict(target.needs),
                    "options": dict(target.options),
                }
                for target in self.targets
            ],
            "verification": self.verification,
            "numerics": self.numerics,
            "versions": dict(self.versions),
            "text": None
            if text is None
            else {
                "tokenizer": text.tokenizer,
                "inputs": dict(text.inputs),
                "max_tokens": text.max_tokens,
                "pad_id": text.pad_id,
                "output": text.output,
                "prompts": dict(text.prompts),
                "default_prompt": text.default_prompt,
            },
            "selftest": self.selftest,
            "members": {
                name: {
                    "offset": member.offset,
                    "size_bytes": member.size_bytes,
                    "crc32": member.crc32,
                    "sha256": member.sha256,
                    "digests": member.digests,
                }
                for name, member in self.members.items()
            },
        }

    @staticmethod
    def from_json(data: Any) -> Header:
        """Keys that it does not know are passed over: a newer format that old readers understand may add some.

        Raises FormatError where `data` is not a header; the format's number is the reader's to judge first.
        """
        try:
            header = Header(
                name=_label(data["name"]),
                signature=Signature.from_json(data["signature"]),
                targets=tuple(_target_from_json(item) for item in data["targets"]),
                verification=_label(data["verification"]),
                numerics=_label(data["numerics"]),
                versions=_labels(data["versions"]),
                text=None if data["text"] is None else _text_from_json(data["text"]),
                selftest=None if data["selftest"] is None else _label(data["selftest"]),
                members={_label(name): _member_from_json(item) for name, item in data["members"].items()},
                format=_whole(data["format"]),
                oldest_reader=_whole(data["oldest_reader"]),
            )
            _check(header)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FormatError(f"the header is not readable: {error!r:.400}") from error
        return header


def _check(header: Header) -> None:
    """Raises ValueError where a value is unknown or a name leads nowhere."""
    if header.verification not in VERIFICATIONS:
        raise ValueError(f"verification '{header.verification:.40}' is none of {', '.join(VERIFICATIONS)}")
    if header.numerics not in NUMERICS:
        raise ValueError(f"numerics '{header.numerics:.40}' is none of {', '.join(NUMERICS)}")
    signature = header.signature
    if not header.targets:
        raise ValueError("it has no target, so nothing can run it")
    for tensor in (*signature.inputs, *signature.outputs):
        for shown in (tensor.name, tensor.dtype, *map(str, tensor.shape)):
            _label(shown)
    for dim in signature.dims:
        _label(dim.name)
    for whose, name in _references(header):
        if name not in header.members:
            raise ValueError(f"{whose} is the member '{name:.80}', which the file does not have")


def _references(header: Header) -> Iterator[tuple[str, str]]:
    """(whose, name) of every member that the header speaks of."""
    for target in header.targets:
        for role, name in target.members.items():
            yield f"target {target.name}'s {role}", name
    if header.text is not None:
        yield "the tokenizer", header.text.tokenizer
    if header.selftest is not None:
        yield "the self-test", header.selftest
    for owner, member in header.members.items():
        if member.digests is not None:
            yield f"the digest list of '{owner}'", member.digests


def _target_from_json(item: Any) -> Target:
    return Target(_label(item["name"]), _labels(item["members"]), _labels(item["needs"]), _mapping(item["options"]))


def _text_from_json(item: Any) -> Text:
    prompts = {_label(name): _string(prompt) for name, prompt in item["prompts"].items()}
    default = item["default_prompt"]
    if default is not None and default not in prompts:
        raise ValueError(f"the default prompt {default!r:.80} is none of the prompts")
    return Text(
        tokenizer=_label(item["tokenizer"]),
        inputs=_labels(item["inputs"]),
        max_tokens=_whole(item["max_tokens"]),
        pad_id=_whole(item["pad_id"]),
        output=_label(item["output"]),
        prompts=prompts,
        default_prompt=default,
    )


def _member_from_json(item: Any) -> Member:
    sha256, digests = _string(item["sha256"]), item["digests"]
    if _SHA256.fullmatch(sha256) is None:
        raise ValueError(f"{sha256!r:.80} is no sha256 in hexadecimal")
    return Member(
        offset=_whole(item["offset"]),
        size_bytes=_whole(item["size_bytes"]),
        crc32=_whole(item["crc32"]),
        sha256=sha256,
        digests=None if digests is None else _label(digests),
    )


def _whole(value: Any) -> int:
    """What an offset or a count may be: as far as 63 bits go."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r:.80} is no whole number of at least 0")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _label(value: Any) -> str:
    """A text that is shown to people on one line."""
    if _UNPRINTABLE.search(_string(value)):
        raise ValueError(f"{value!r:.80} holds characters that do not print")
    return str(value)


def _labels(value: Any) -> dict[str, str]:
    return {_label(name): _label(item) for name, item in value.items()}


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.80} is no object")
    return value
