"""The header of an engine file as data: what the engine takes and gives, which targets it carries, and its members.

docs/file-format.md is the specification; this module is its JSON part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ingot.errors import FormatError
from ingot.signature import Signature

FORMAT = 1
"""The format that this version writes."""

OLDEST_READER = 1
"""The oldest format number whose readers understand what this version writes."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in the file, and what they must be.

    `digests` names another member that holds one sha256 (32 raw bytes) for each 4 MiB chunk of a large member;
    then `sha256` is over that list, so that one digest still covers everything.
    """

    offset: int
    size_bytes: int
    sha256: str
    digests: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One way to run the engine. `members` maps a role that the backend knows ("graph", "weights") to a member's name;
    `needs` states what the machine must have ({"onnxruntime": ">=1.31"}); `options` is the backend's own (JSON)."""

    name: str
    members: Mapping[str, str]
    needs: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """How raw text becomes inputs. `tokenizer` names a member in the format of the `tokenizers` library.

    `inputs` maps a tokenizer's output ("ids", "mask", "types") to an input's name; `output` is the embedding's name.
    `prompts` maps a prompt's name to the text put in front; `default_prompt` is one of them, or None.
    """

    tokenizer: str
    inputs: Mapping[str, str]
    max_tokens: int
    pad_id: int
    output: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """Everything a reader must know before it touches a member.

    `verification` is "full", "quick" or "off"; `numerics` "fast" or "strict"; `versions` what wrote the file;
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
    members: Mapping[str, Member] = field(default_factory=dict)
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
                    "sha256": member.sha256,
                    "digests": member.digests,
                }
                for name, member in self.members.items()
            },
        }

    @staticmethod
    def from_json(data: Any) -> Header:
        """Raises FormatError where `data` is not a header; the format's number is the reader's to judge first."""
        try:
            text = data["text"]
            return Header(
                name=str(data["name"]),
                signature=Signature.from_json(data["signature"]),
                targets=tuple(
                    Target(str(item["name"]), dict(item["members"]), dict(item["needs"]), dict(item["options"]))
                    for item in data["targets"]
                ),
                verification=str(data["verification"]),
                numerics=str(data["numerics"]),
                versions=dict(data["versions"]),
                text=None if text is None else Text(**text),
                selftest=data["selftest"],
                members={str(name): Member(**item) for name, item in data["members"].items()},
                format=int(data["format"]),
                oldest_reader=int(data["oldest_reader"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the header is not readable: {error!r}") from error
