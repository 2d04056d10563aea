"""What a plan keeps of one plugin: written as bounded JSON, and held to the declaration and the tensors when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingot.file import strict_json
from ingot.plugins.declaration import Declaration, DoesNotFit, Given

FIELD = "ingot"
"""The name of the one field that a plan keeps of a plugin."""

LIMIT_BYTES = 4096

INPUTS = "inputs"
"""The attribute that names the inputs of a call in the graph for TensorRT's parser: "x,residual,weight"."""

THEIRS = ("plugin_version", "plugin_namespace")
"""Attributes that the parser itself reads."""

TRT_DTYPES: Mapping[str, str] = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
"""What TensorRT's DataType calls a dtype."""

_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

_KEYS = {"plugin", "version", "dtype", "sizes", "optional", "attributes", "kernels"}


@dataclass(frozen=True, slots=True)
class Fields:
    """One plugin of a plan.

    dtype     of all its tensors
    sizes     of the dims that the declaration fixes
    optional  names of the optional inputs that are there, in declared order
    kernels   the digest of the kernels that the engine file brings for it
    """

    declaration: Declaration
    dtype: str
    sizes: Mapping[str, int]
    optional: tuple[str, ...]
    attributes: Mapping[str, float | str]
    kernels: str

    def kernel(self) -> str:
        """The name of the kernel for these fields: "rms-f16-h768"."""
        variant = self.declaration.variant(self.attributes, self.optional)
        sizes = "".join(f"-{letter.lower()}{size}" for letter, size in self.sizes.items())
        return f"{variant}-{_SHORT[self.dtype]}{sizes}"

    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that are there, in the order in which TensorRT gives them."""
        return tuple(spec.name for spec in self.declaration.inputs if not spec.optional or spec.name in self.optional)

    def to_bytes(self) -> bytes:
        return strict_json.encode(
            {
                "plugin": self.declaration.name,
                "version": self.declaration.version,
                "dtype": self.dtype,
                "sizes": dict(self.sizes),
                "optional": list(self.optional),
                "attributes": dict(self.attributes),
                "kernels": self.kernels,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, declaration: Declaration) -> Fields:
        """Raises DoesNotFit for what is not the JSON of `to_bytes`, of another plugin or version, or not allowed."""
        raw = _decoded(data)
        if raw["plugin"] != declaration.name:
            raise DoesNotFit(f"the plan's fields are of the plugin {raw['plugin']!r:.40}, not of {declaration.name}")
        if raw["version"] != declaration.version:
            raise DoesNotFit(
                f"the plan has {declaration.name} of version {raw['version']!r:.20}; "
                f"this Ingot has version {declaration.version}"
            )
        if raw["dtype"] not in declaration.dtypes:
            raise DoesNotFit(f"the dtype is {raw['dtype']!r:.40}; it is one of {', '.join(declaration.dtypes)}")
        if not isinstance(raw["attributes"], dict) or set(raw["attributes"]) != _names(declaration):
            raise DoesNotFit(f"the attributes are not {', '.join(sorted(_names(declaration)))}")
        return cls(
            declaration,
            raw["dtype"],
            _sizes(raw["sizes"], declaration),
            _optional(raw["optional"], declaration),
            declaration.check_attributes(raw["attributes"]),
            _digest(raw["kernels"]),
        )

    def check(self, tensors: Sequence[Given]) -> None:
        """Raises DoesNotFit where the input tensors that TensorRT gives are not those that the fields are for."""
        names = self.inputs()
        if len(tensors) != len(names):
            raise DoesNotFit(
                f"{self.declaration.name} has {len(tensors)} inputs; by its fields they are {', '.join(names)}"
            )
        dims = self.declaration.fit(dict(zip(names, tensors, strict=True)))
        for letter, size in self.sizes.items():
            if dims[letter] != size:
                raise DoesNotFit(f"{letter} is {dims[letter]} in the tensors and {size} in the plan's fields")
        for name, tensor in zip(names, tensors, strict=True):
            if tensor.dtype is not None and tensor.dtype != self.dtype:
                raise DoesNotFit(f"{name} is {tensor.dtype}; by the plan's fields it is {self.dtype}")


def read_call(declaration: Declaration, given: Mapping[str, Any]) -> tuple[dict[str, float | str], tuple[str, ...]]:
    """The attributes, and the names of the inputs, that a node gives: {name: data}, numbers as arrays of one, words as
    bytes or int8. Raises DoesNotFit."""
    found: dict[str, Any] = {}
    reals = {attribute.name for attribute in declaration.reals()}
    for name, data in given.items():
        if name not in (INPUTS, *THEIRS):
            found[name] = _number(name, data) if name in reals else _text(data)
    attributes = declaration.check_attributes(found)
    listed = _text(given[INPUTS]).split(",") if INPUTS in given else []
    names = [spec.name for spec in declaration.inputs]
    needed = [spec.name for spec in declaration.inputs if not spec.optional]
    if listed != [name for name in names if name in listed] or not set(needed) <= set(listed):
        raise DoesNotFit(f"its inputs are said to be {', '.join(listed) or 'none'}; they are of {', '.join(names)}")
    return attributes, tuple(listed)


def _text(data: Any) -> str:
    """TensorRT ends a word with a zero byte, or does not."""
    return bytes(data).rstrip(b"\0").decode("utf-8", errors="replace")


def _number(name: str, data: Any) -> float:
    values = list(data)
    if len(values) != 1:
        raise DoesNotFit(f"{name} has {len(values)} values, not one")
    return float(values[0])


def _decoded(data: bytes) -> dict[str, Any]:
    if len(data) > LIMIT_BYTES:
        raise DoesNotFit(f"the plan's fields have {len(data)} bytes; {LIMIT_BYTES} are the most")
    try:
        raw = strict_json.decode(data)
    except ValueError as error:
        raise DoesNotFit(f"the plan's fields are not what Ingot writes: {error}") from None
    if set(raw) != _KEYS:
        raise DoesNotFit(f"the plan's fields are {', '.join(sorted(raw))[:200]}, not {', '.join(sorted(_KEYS))}")
    return raw


def _names(declaration: Declaration) -> set[str]:
    return {attribute.name for attribute in declaration.attributes}


def _sizes(raw: Any, declaration: Declaration) -> dict[str, int]:
    if not isinstance(raw, dict) or set(raw) != set(declaration.fixed):
        raise DoesNotFit(f"the sizes are not of {', '.join(declaration.fixed)}")
    for letter, most in declaration.fixed.items():
        size = raw[letter]
        if type(size) is not int or not 1 <= size <= most:
            raise DoesNotFit(f"{letter} is {size!r:.40}; {declaration.name} takes 1 to {most}")
    return {letter: raw[letter] for letter in declaration.fixed}


def _optional(raw: Any, declaration: Declaration) -> tuple[str, ...]:
    known = declaration.optional_inputs()
    if not isinstance(raw, list) or raw != [name for name in known if name in raw]:
        raise DoesNotFit(f"the optional inputs are {raw!r:.80}; they are among {', '.join(known)}, in this order")
    return tuple(raw)


def _digest(raw: Any) -> str:
    if not isinstance(raw, str) or len(raw) != 64 or not set(raw) <= set("0123456789abcdef"):
        raise DoesNotFit(f"the kernels' digest is {raw!r:.80}, not 64 hexadecimal digits")
    return raw
