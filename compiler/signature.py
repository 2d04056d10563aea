"""What goes into an engine and what comes out: tensors, named dims with bounds, domains, and the model's own structure.

A tree describes structure as plain JSON: an engine file can carry it, and nothing in the file names a class to import.

    {"tensor": 3}                      the fourth input (or output) of the flat list
    {"tuple": [tree, ...]}             also lists: {"list": [tree, ...]}
    {"dict": {key: tree, ...}}
    {"object": {field: tree, ...}, "type": "BaseModelOutput"}   dataclasses; the type is shown, never imported
    {"constant": null | bool | int | float | str}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ingot.errors import FormatError

# Production imports this module and its neighbours: a NamedTuple is made in a fifth of a dataclass's time.

Axis = int | str
"""A fixed size, or an expression of named dims: "batch", "2*length", "length + 1"."""

Tree = dict[str, Any]

# No size has more digits than 63 bits do, and int() refuses thousands of them, with an error of its own.
_LINEAR = re.compile(r"^(?:(\d{1,18})\*)?([A-Za-z_]\w*)(?: ([+-]) (\d{1,18}))?$")


class Dim(NamedTuple):
    """A named dimension and the sizes it may take, both ends included; `max` None: unbounded."""

    name: str
    min: int = 1
    max: int | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.min}..{'' if self.max is None else self.max}"


class Domain(NamedTuple):
    """The integers that an input may hold, both ends included.

    role "mask": ones mark what counts and zeros mark padding, padding last.
    """

    low: int
    high: int
    role: Literal["values", "mask"] = "values"

    def __str__(self) -> str:
        return "mask 0 or 1" if self.role == "mask" else f"{self.low}..{self.high}"


class Tensor(NamedTuple):
    """One input or output. `dtype` is numpy's name ("float32", "int64", "bool"), or "bfloat16"."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    domain: Domain | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(str(axis) for axis in self.shape)}]"


class Linear(NamedTuple):
    """An axis as scale * dim + offset: what the size of an input's axis may be."""

    dim: str
    scale: int = 1
    offset: int = 0

    def size(self, value: int) -> int:
        return self.scale * value + self.offset

    def solve(self, size: int) -> int | None:
        """The dim's value that gives this size; None where no integer does."""
        value, rest = divmod(size - self.offset, self.scale)
        return None if rest else value


def linear(axis: str) -> Linear | None:
    """Reads "2*length + 1"; None for any other expression (outputs may have those)."""
    match = _LINEAR.match(axis)
    if match is None:
        return None
    scale, name, sign, offset = match.groups()
    return Linear(name, int(scale or 1), int(offset or 0) * (-1 if sign == "-" else 1))


class Signature(NamedTuple):
    """Inputs, outputs, dims, and the trees that tie them to the model's own call and result.

    `parameters` maps each parameter of the model's forward, in order, to a tree over `inputs`;
    `result` is a tree over `outputs`.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dims: tuple[Dim, ...]
    parameters: Mapping[str, Tree]
    result: Tree

    def dim(self, name: str) -> Dim:
        """Raises KeyError where there is none of this name."""
        for dim in self.dims:
            if dim.name == name:
                return dim
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [_tensor_to_json(tensor) for tensor in self.inputs],
            "outputs": [_tensor_to_json(tensor) for tensor in self.outputs],
            "dims": [{"name": dim.name, "min": dim.min, "max": dim.max} for dim in self.dims],
            "parameters": [[name, tree] for name, tree in self.parameters.items()],
            "result": self.result,
        }

    @staticmethod
    def from_json(data: Any) -> Signature:
        """Raises FormatError where `data` does not describe a signature."""
        try:
            signature = Signature(
                inputs=tuple(_tensor_from_json(item) for item in data["inputs"]),
                outputs=tuple(_tensor_from_json(item) for item in data["outputs"]),
                dims=tuple(
                    Dim(str(item["name"]), int(item["min"]), _optional_int(item["max"])) for item in data["dims"]
                ),
                parameters={str(name): tree for name, tree in data["parameters"]},
                result=data["result"],
            )
            for tree in signature.parameters.values():
                _check_leaves(tree, len(signature.inputs))
            _check_leaves(signature.result, len(signature.outputs))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"the header's signature is not readable: {error!r}") from error
        return signature


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, int]]:
    """(path, index of the tensor) of each tensor in a tree, in order; paths are written "a.b.0"."""
    if "tensor" in tree:
        yield path, tree["tensor"]
        return
    for key, child in children(tree):
        yield from leaves(child, f"{path}.{key}" if path else str(key))


def children(tree: Tree) -> Iterator[tuple[str | int, Tree]]:
    """(key, subtree) of a container; nothing for a tensor or a constant."""
    for kind in ("tuple", "list"):
        if kind in tree:
            yield from enumerate(tree[kind])
    for kind in ("dict", "object"):
        if kind in tree:
            yield from tree[kind].items()


def _check_leaves(tree: Tree, count: int) -> None:
    if not isinstance(tree, dict) or not ({"tensor", "tuple", "list", "dict", "object", "constant"} & tree.keys()):
        raise ValueError(f"a tree of an unknown kind: {tree!r:.80}")
    if "tensor" in tree and not (isinstance(tree["tensor"], int) and 0 <= tree["tensor"] < count):
        raise ValueError(f"a tree names tensor {tree['tensor']!r} of {count}")
    for _, child in children(tree):
        _check_leaves(child, count)


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    data: dict[str, Any] = {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
    if tensor.domain is not None:
        data["domain"] = {"low": tensor.domain.low, "high": tensor.domain.high, "role": tensor.domain.role}
    return data


def _tensor_from_json(data: Any) -> Tensor:
    domain = data.get("domain")
    if domain is not None:
        if domain["role"] not in ("values", "mask"):
            raise ValueError(f"a domain of an unknown role: {domain['role']!r}")
        domain = Domain(int(domain["low"]), int(domain["high"]), domain["role"])
    shape = tuple(axis if isinstance(axis, int) else str(axis) for axis in data["shape"])
    return Tensor(str(data["name"]), str(data["dtype"]), shape, domain)
