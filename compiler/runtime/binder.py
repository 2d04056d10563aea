"""From the arguments of one call to the flat arrays of a session: names, nesting, dtypes, shapes, domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ingot.errors import FormatError, InputError
from ingot.runtime.arrays import Array, array_dtype, domain_check, is_torch, to_array
from ingot.runtime.output import Output
from ingot.runtime.shapes import ShapeCheck
from ingot.signature import Signature, Tree, leaves

REMEMBERED_SHAPES = 4096
"""How many calls' shapes are known to be good at a time: production repeats its shapes, and a look-up costs 0.2 µs."""

_CONSTANTS = (type(None), bool, int, float, str)


class Binder:
    """The checks of one engine, prepared once. Safe from many threads."""

    def __init__(self, engine: str, signature: Signature) -> None:
        """Raises FormatError for a signature that no call can fit."""
        self._engine = engine
        self._inputs = signature.inputs
        self._parameters = signature.parameters
        self._check_shapes = lru_cache(REMEMBERED_SHAPES)(ShapeCheck(signature))
        checks = [domain_check(tensor) for tensor in signature.inputs]
        self._domain_checks = [(index, check) for index, check in enumerate(checks) if check is not None]
        self._dtypes = [array_dtype(tensor) for tensor in signature.inputs]
        fed = [index for name, tree in signature.parameters.items() for _, index in leaves(tree, name)]
        if sorted(fed) != list(range(len(signature.inputs))) or len({t.name for t in signature.inputs}) != len(fed):
            raise FormatError("the header's parameters do not feed every input once")
        flat = [tree.get("tensor") for tree in signature.parameters.values()]
        # -1: there are constants or nested arguments, which only `flat` takes apart.
        self._quick_names = list(signature.parameters)
        self._quick_count = len(flat) if flat == list(range(len(flat))) else -1

    def quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Array] | None:
        """The arrays where every argument already is what the session takes; None: `flat` and `arrays` look closer.

        Raises InputError as `arrays` does for shapes and domains.
        """
        if kwargs:
            if args or len(kwargs) != self._quick_count:
                return None
            try:
                args = tuple([kwargs[name] for name in self._quick_names])
            except KeyError:
                return None
        elif len(args) != self._quick_count:
            return None
        shapes = []
        for value, dtype in zip(args, self._dtypes, strict=True):
            if type(value) is not np.ndarray or value.dtype is not dtype or not value.flags.carray:
                return None
            shapes.append(value.shape)
        self._check_shapes(tuple(shapes))
        for index, check in self._domain_checks:
            check(args[index])
        return args

    def flat(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[object]:
        """What any call gives for each of the signature's inputs, not looked at. Raises InputError."""
        given = self._named(args, kwargs)
        values: list[object] = [None] * len(self._inputs)
        for name, tree in self._parameters.items():
            if name in given:
                self._take(tree, given[name], name, values)
        return values

    def arrays(self, values: Sequence[object]) -> list[Array]:
        """The arrays of one call given flat, in the order of the signature's inputs. Raises InputError."""
        arrays = [to_array(value, tensor) for value, tensor in zip(values, self._inputs, strict=True)]
        self._check_values(arrays)
        return arrays

    def named(self, inputs: Mapping[str, object]) -> list[object]:
        """The same for one call given by the inputs' flat names ("batch.mask"). Raises InputError."""
        names = [tensor.name for tensor in self._inputs]
        self._refuse_misnamed(list(inputs), names, names)
        return [inputs[name] for name in names]

    def check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Of every input, in order. Raises InputError."""
        self._check_shapes(shapes)

    def _check_values(self, arrays: Sequence[Array]) -> None:
        self._check_shapes(tuple([array.shape for array in arrays]))
        for index, check in self._domain_checks:
            check(arrays[index])

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = list(self._parameters)
        if len(args) > len(names):
            raise InputError(
                f"engine '{self._engine}' takes {len(names)} inputs and was given {len(args)}", fix=self._usage()
            )
        given = dict(zip(names, args, strict=False))
        for name in kwargs:
            if name in given:
                raise InputError(f"input '{name}' is given twice, by position and by name", fix=self._usage())
        given |= kwargs
        self._refuse_misnamed(list(given), names, [name for name, tree in self._parameters.items() if _needed(tree)])
        return given

    def _refuse_misnamed(self, given: list[str], known: list[str], needed: list[str]) -> None:
        for name in given:
            if name not in known:
                raise InputError(
                    f"engine '{self._engine}' has no input '{name}'; it has {', '.join(known)}",
                    fix=_meant(name, known) or self._usage(),
                )
        missing = [name for name in needed if name not in given]
        if missing:
            raise InputError(
                f"input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} missing", fix=self._usage()
            )

    def _usage(self) -> str:
        return f"engine({', '.join(f'{name}=…' for name, tree in self._parameters.items() if _needed(tree))})"

    def _take(self, tree: Tree, value: Any, path: str, values: list[object]) -> None:
        """Puts the tensors of one nested argument in their places."""
        if "tensor" in tree:
            values[tree["tensor"]] = value
        elif "constant" in tree:
            constant = tree["constant"]
            if not (isinstance(value, _CONSTANTS) and _same(value, constant)):
                raise InputError(
                    f"'{path}' was fixed to {constant!r} when the engine was compiled",
                    where=f"given {value!r:.60}",
                    fix=f"leave it out, or compile with the other value as example input '{path}'",
                )
        else:
            for key, child, item in _branches(tree, value, path):
                self._take(child, item, f"{path}.{key}", values)


def _branches(tree: Tree, value: Any, path: str) -> Iterator[tuple[str | int, Tree, Any]]:
    """(key, subtree, item) of a container, after its keys or length were found to fit."""
    kind = next(kind for kind in ("tuple", "list", "dict", "object") if kind in tree)
    branches = tree[kind]
    if kind in ("tuple", "list"):
        if not isinstance(value, tuple | list | Output) or len(value) != len(branches):
            found = f"{len(value)} items" if isinstance(value, tuple | list | Output) else f"a {type(value).__name__}"
            raise InputError(f"'{path}' must be a {kind} of {len(branches)} items, and is {found}")
        for index, (child, item) in enumerate(zip(branches, value, strict=True)):
            yield index, child, item
        return
    if isinstance(value, Mapping | Output):
        items = {str(key): item for key, item in value.items()}
    elif kind == "object" and not is_torch(value) and not isinstance(value, np.ndarray):
        items = {key: getattr(value, key) for key in branches if hasattr(value, key)}
    else:
        items = None
    if items is None or (branches and not items):
        kinds = "dict" if kind == "dict" else f"{tree.get('type', 'object')} or a dict"
        found = "empty" if items is not None else f"a {type(value).__name__}"
        raise InputError(f"'{path}' must be a {kinds} with {', '.join(branches)}, and is {found}")
    for key in items:
        if key not in branches:
            fix = _meant(key, list(branches))
            raise InputError(f"'{path}' has no '{key}'; it has {', '.join(branches)}", fix=fix)
    for key, child in branches.items():
        if key in items:
            yield key, child, items[key]
        elif _needed(child):
            raise InputError(f"'{path}.{key}' is missing", fix=f"'{path}' with {', '.join(branches)}")


def _needed(tree: Tree) -> bool:
    """Constants were fixed at compile time and may be left out."""
    return any(True for _ in leaves(tree))


def _same(value: object, constant: object) -> bool:
    return isinstance(value, bool) == isinstance(constant, bool) and value == constant


def _meant(name: str, known: list[str]) -> str | None:
    # Imported when somebody mistyped: its 5 ms are not production's to pay.
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else None
