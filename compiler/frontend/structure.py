"""Between the model's own call (nested arguments, dataclass results) and flat lists of tensors: trees that tie both.

The trees are those of ingot.signature. One flattening serves tracing and the eager reference, so that the two cannot
disagree about which output is which.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ingot.errors import ExportError
from ingot.signature import Tree, leaves

_CONSTANTS = (type(None), bool, int, float, str)


def flatten(value: Any) -> tuple[list[torch.Tensor], Tree]:
    """The tensors of a nested value in order, and its tree.

    Raises ExportError for a leaf that is neither a tensor nor None, bool, int, float or str, and for keys of one dict
    that read the same.
    """
    tensors: list[torch.Tensor] = []
    return tensors, _flatten(value, tensors, "")


def _flatten(value: Any, tensors: list[torch.Tensor], path: str) -> Tree:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}

    def children(items: Mapping[Any, Any]) -> dict[str, Tree]:
        _refuse_twins(items, path)
        return {str(key): _flatten(item, tensors, f"{path}.{key}" if path else str(key)) for key, item in items.items()}

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # transformers' ModelOutput is a dataclass and a mapping of the fields that are not None
        fields = (
            value if isinstance(value, Mapping) else {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        )
        return {"object": children(fields), "type": type(value).__name__}
    if isinstance(value, Mapping):
        return {"dict": children(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"object": children(dict(zip(value._fields, value, strict=True))), "type": type(value).__name__}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: list(children(dict(enumerate(value))).values())}
    if isinstance(value, _CONSTANTS):
        return {"constant": value}
    raise ExportError(
        f"{path or 'a value'} is a {type(value).__name__}, which an engine cannot take or give",
        fix="pass tensors, numbers, strings, None, and tuples, lists, dicts or dataclasses of them",
    )


def _refuse_twins(items: Mapping[Any, Any], path: str) -> None:
    """A tree's keys are text, as in JSON: of 1 and "1" one would be lost."""
    seen: dict[str, Any] = {}
    for key in items:
        if str(key) in seen:
            raise ExportError(
                f"{path or 'a dict'} has the keys {seen[str(key)]!r} and {key!r}, which an engine cannot tell apart",
                fix="keys that differ as text too",
            )
        seen[str(key)] = key


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model with its arguments taken apart; `rebuild` puts other tensors in the same places."""

    bound: inspect.BoundArguments
    trees: dict[str, Tree]
    tensors: list[torch.Tensor]

    @property
    def names(self) -> list[str]:
        """A name for each tensor: the parameter's, or "parameter.key.0" where it is nested."""
        return [leaf for name, tree in self.trees.items() for leaf, _ in leaves(tree, name)]

    def rebuild(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of the same structure around `tensors`."""
        values = {name: unflatten(tree, tensors, like=self._value(name)) for name, tree in self.trees.items()}
        arguments: dict[str, Any] = {}
        for name, parameter in self.bound.signature.parameters.items():
            if name not in self.bound.arguments:
                continue
            given = self.bound.arguments[name]
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                arguments[name] = tuple(values[f"{name}_{index}"] for index in range(len(given)))
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments[name] = {key: values[key] for key in given}
            else:
                arguments[name] = values[name]
        rebuilt = inspect.BoundArguments(self.bound.signature, arguments)
        return rebuilt.args, rebuilt.kwargs

    def _value(self, name: str) -> Any:
        return dict(_named_arguments(self.bound))[name]


def take_apart(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Binds a call to the parameters of `forward` and flattens it.

    Raises ExportError when the arguments do not fit the parameters.
    """
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ExportError(
            f"the example inputs do not fit the model's forward{signature}: {error}",
            fix="give the inputs as a dict of forward's own parameter names",
        ) from error
    tensors: list[torch.Tensor] = []
    trees = {name: _flatten(value, tensors, name) for name, value in _named_arguments(bound)}
    return Call(bound, trees, tensors)


def _named_arguments(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named += [(f"{name}_{index}", item) for index, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named += list(value.items())
        else:
            named.append((name, value))
    return named


def unflatten(tree: Tree, tensors: Sequence[torch.Tensor], *, like: Any) -> Any:
    """The nested value of a tree around `tensors`; `like` is a value of the same structure, whose types are kept."""
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "constant" in tree:
        return tree["constant"]
    if "dict" in tree or ("object" in tree and isinstance(like, Mapping)):
        branches = tree["dict"] if "dict" in tree else tree["object"]
        entries = {key: unflatten(branches[str(key)], tensors, like=like[key]) for key in like}
        return _mapping(entries, like) if "dict" in tree else type(like)(**entries)
    if "object" in tree:
        fields = {key: unflatten(child, tensors, like=getattr(like, key)) for key, child in tree["object"].items()}
        return type(like)(**fields)
    items = [
        unflatten(child, tensors, like=item)
        for child, item in zip(tree["tuple"] if "tuple" in tree else tree["list"], like, strict=True)
    ]
    return type(like)(items)


def _mapping(entries: dict[Any, Any], like: Mapping[Any, Any]) -> Any:
    if not isinstance(like, dict | UserDict):
        # A copy of another mapping may share its storage, and the caller's tensors would be overwritten.
        return type(like)(entries)  # type: ignore[call-arg]
    # Not by the constructor: that of a subclass may take something else (defaultdict's is the factory).
    made = copy.copy(like)
    if isinstance(made, dict) and getattr(like, "__dict__", None) is like:
        # The idiom `self.__dict__ = self`; the copy's attributes would be the tensors of `like`.
        made.__dict__ = made
    for key, value in entries.items():
        made[key] = value
    return made


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Inside, the module is in eval mode; afterwards every part of it is back in its own mode.

    By its own train(), since that may do more than set a flag: loralib's layers merge their weights in eval mode.
    """
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        # modules() gives a part before what is in it, so that a part in another mode than its parent has the last word.
        for part, training in flags:
            if part.training != training:
                part.train(training)
        for part, training in flags:
            part.training = training


@dataclass(slots=True)
class Result:
    """The tree of the last result. Not an attribute of the module: torch.export puts those back after tracing."""

    tree: Tree | None = None


class FlatModule(torch.nn.Module):
    """The model as tensors in, tensors out: what is traced. Each call leaves its result's tree in `result`."""

    def __init__(self, model: torch.nn.Module, call: Call, result: Result) -> None:
        super().__init__()
        self.model = model
        self.call = call
        self.result = result
        self.train(model.training)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = self.call.rebuild(tensors)
        outputs, self.result.tree = flatten(self.model(*args, **kwargs))
        return tuple(outputs)
