"""A Python object, or the name of one (`package.module:name`), becomes a module with example inputs."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from ingot.errors import IngotError, SourceError, UsageError
from ingot.frontend.source import ACCEPTED, Source, as_call


def from_import(reference: str) -> Source:
    """What `package.module:name` means. Raises as `import_name` and `from_object` do."""
    return from_object(import_name(reference), reference.rpartition(":")[2].rpartition(".")[2])


def import_name(reference: str) -> Any:
    """Imports `package.module:name` the way `python -m` would find it, from the current folder first.

    Raises UsageError where the module or the name does not exist, SourceError where the user's code raises.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        raise UsageError(f"'{reference}' names a module, but nothing in it", fix=f"{reference}:NAME")
    here = str(Path.cwd())
    # It stays on the path, since the model's own code may import more when it is called.
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module may raise anything while it is imported
        raise _import_failed(error, module_name, reference) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise _no_such_name(value, part, reference)
        value = getattr(value, part)
    return value


def from_object(value: Any, name: str) -> Source:
    """A module, or one with example inputs, as it is or as a class or function gives it when called without arguments.

    With inputs it is a tuple (module, inputs) or (module, inputs, dynamic_shapes), or an object with the attributes
    `module`, `args`, `kwargs` and `dynamic_shapes`, as those of ingot.models.
    """
    source = _as_source(value, name)
    if source is not None:
        return source
    if not callable(value):
        raise UsageError(f"'{name}' is no model but of type {type(value).__name__}", fix=ACCEPTED)
    _check_no_arguments(value, name)
    try:
        made = value()
    except IngotError:
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise SourceError(f"{name}() raised {_said(error)}", where=_user_line(error)) from error
    source = _as_source(made, name)
    if source is None:
        raise UsageError(
            f"{name}() gave a {_described(made)}, not a module",
            fix="return an nn.Module, or (module, example_inputs) with a tensor, a tuple, or a dict of keywords",
        )
    return source


def _as_source(value: Any, name: str) -> Source | None:
    import torch

    if isinstance(value, torch.nn.Module):
        return Source(name, value)
    if isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], torch.nn.Module):
        args, kwargs = as_call(value[1])
        return Source(name, value[0], args, kwargs, value[2] if len(value) == 3 else None)
    module = getattr(value, "module", None)
    if isinstance(module, torch.nn.Module) and hasattr(value, "args") and hasattr(value, "kwargs"):
        return Source(name, module, tuple(value.args), dict(value.kwargs), getattr(value, "dynamic_shapes", None))
    return None


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"tuple of {', '.join(type(item).__name__ for item in value[:4]) or 'nothing'}"
    return type(value).__name__


def _check_no_arguments(value: Any, name: str) -> None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # some built-in callables have no signature; the call itself tells
    try:
        signature.bind()
    except TypeError as error:
        raise UsageError(
            f"{name}{signature} cannot be called without arguments: {error}",
            fix=f"name a function that calls it: def build(): return {name}(…)",
        ) from error


def _import_failed(error: BaseException, module_name: str, reference: str) -> IngotError:
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and (module_name == absent or module_name.startswith(f"{absent}.")):
        close = difflib.get_close_matches(absent, [path.stem for path in Path.cwd().glob("*") if _importable(path)], 3)
        return UsageError(
            f"there is no module '{absent}' to import '{reference}' from",
            where=f"looked in {Path.cwd()} and in this Python's packages",
            fix=f"did you mean {', '.join(close)}?" if close else "cd to the folder that holds it, or pip install it",
        )
    return SourceError(f"importing {module_name} raised {_said(error)}", where=_user_line(error))


def _importable(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and path.name.isidentifier())


def _no_such_name(owner: Any, name: str, reference: str) -> UsageError:
    public = [key for key in vars(owner) if not key.startswith("_")]
    close = difflib.get_close_matches(name, public, 3)
    models = [key for key in public if _may_be_model(getattr(owner, key), owner)]
    candidates = close or models[:8]
    return UsageError(
        f"'{reference.partition(':')[0]}' has no '{name}'",
        where=str(getattr(owner, "__file__", owner)),
        fix=f"did you mean {', '.join(candidates)}?" if candidates else ACCEPTED,
    )


def _may_be_model(value: Any, owner: Any) -> bool:
    import torch

    own = getattr(value, "__module__", None) == getattr(owner, "__name__", None)
    return isinstance(value, torch.nn.Module) or (callable(value) and own)


def _said(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _user_line(error: BaseException) -> str | None:
    """The innermost line outside this file and the import machinery, as "file:line: source"."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen") and "importlib" not in frame.filename
    ]
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else None
