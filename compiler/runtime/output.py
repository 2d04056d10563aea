"""What an engine gives back: the model's own structure around arrays, in one class of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from ingot.errors import FormatError
from ingot.signature import Tree, children


class Output:
    """A tuple, list, dict or dataclass of results, by attribute, key and position.

        out.logits    out["logits"]    out[0]    loss, logits = out

    A tuple or list has positions; a dict has keys, also as attributes; a dataclass has all three, in the order of its
    fields, as far as they hold something. Iterating gives a dict's keys and the values of anything else. A field that
    is called like a method of this class ("keys", "values", "items") is reached by key.
    """

    __slots__ = ("_branches", "_kind", "_type")

    def __init__(self, kind: str, branches: dict[Any, Any], type_name: str = "") -> None:
        self._kind = kind
        self._branches = branches
        self._type = type_name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Output.__slots__ or name not in self._branches:
            has = "" if name.startswith("_") else f"; it has {', '.join(map(str, self._branches)) or 'nothing'}"
            raise AttributeError(f"the output has no '{name}'{has}")
        return self._branches[name]

    def __getitem__(self, key: Any) -> Any:
        if self._kind == "dict":
            key = str(key)
        elif isinstance(key, slice) or hasattr(key, "__index__"):
            return self.values()[key]
        if key not in self._branches:
            raise KeyError(f"the output has no {key!r}; it has {', '.join(map(repr, self._branches)) or 'nothing'}")
        return self._branches[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._branches if self._kind == "dict" else self._branches.values())

    def __len__(self) -> int:
        return len(self._branches)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key (dict, dataclass) or position (tuple, list)."""
        return (str(key) if self._kind == "dict" else key) in self._branches

    def keys(self) -> tuple[Any, ...]:
        return tuple(self._branches)

    def values(self) -> tuple[Any, ...]:
        return tuple(self._branches.values())

    def items(self) -> tuple[tuple[Any, Any], ...]:
        return tuple(self._branches.items())

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *(key for key in self._branches if isinstance(key, str))])

    def __repr__(self) -> str:
        named = self._kind in ("dict", "object")
        parts = [f"{key}={_brief(value)}" if named else _brief(value) for key, value in self._branches.items()]
        return f"{self._type or self._kind}({', '.join(parts)})"


def assembler(tree: Tree) -> Callable[[Sequence[Any]], Any]:
    """A function from the flat outputs to the model's result; a result that is one tensor is that tensor."""
    if "tensor" in tree:
        return itemgetter(tree["tensor"])
    if "constant" in tree:
        constant = tree["constant"]
        return lambda flat: constant
    kind = next((kind for kind in ("tuple", "list", "dict", "object") if kind in tree), None)
    if kind is None:
        raise FormatError(f"the header's result is of an unknown kind: {tree!r:.80}")
    type_name = str(tree.get("type", ""))
    branches = [(key, assembler(child)) for key, child in children(tree)]
    return lambda flat: Output(kind, {key: assemble(flat) for key, assemble in branches}, type_name)


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is None:
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(shape)}"
