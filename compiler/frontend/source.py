"""What people type for a model (a folder, `package.module:name`, a module) becomes a module with example inputs."""

from __future__ import annotations

import difflib
import inspect
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ingot.errors import SourceError, UsageError
from ingot.signature import Domain

if TYPE_CHECKING:
    # Importing torch takes seconds, and a mistyped path is told before.
    import torch

ACCEPTED = (
    "a Hugging Face or sentence-transformers folder, or package.module:name "
    "(an nn.Module, or a function without arguments that returns one)"
)

_PYTHON_NAME = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True, slots=True)
class TextSource:
    """How raw text becomes the inputs: what the engine file's header will say, and the tokenizer itself.

    `inputs` maps a tokenizer's output ("ids", "mask", "types") to an input's name. `prompts` maps a prompt's name to
    the text put in front; `default_prompt` is one of them, or None. `tokenizer_json` neither truncates nor pads.
    """

    tokenizer_json: bytes
    inputs: dict[str, str]
    max_tokens: int
    pad_id: int
    output: str
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


@dataclass(slots=True)
class Source:
    """A model and one call of it.

    `args` and `kwargs` are example inputs: tensors, and constants, in any nesting. `dynamic_shapes` is torch.export's
    form by parameter name; None lets the frontend choose. `domains` is by flat input name ("input_ids", "batch.mask").
    `drawn`: the examples are keywords made up from a config, and other sizes would do as well.
    """

    name: str
    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None
    domains: dict[str, Domain] = field(default_factory=dict)
    text: TextSource | None = None
    warnings: list[str] = field(default_factory=list)
    drawn: bool = False


def resolve(model: str | Path | torch.nn.Module | Callable[[], Any], inputs: Any = None) -> Source:
    """The module and the example inputs that `model` means; nothing is downloaded and no code of a folder is run.

    `inputs`: one tensor or array, a tuple of positional ones, or a mapping of forward's parameter names; they replace
    those that a folder or a function brings. Raises UsageError where `model` cannot be meant or examples are missing,
    SourceError where the model cannot be read or was made by torch.jit.
    """
    if find_spec("torch") is None:
        raise UsageError("compiling takes PyTorch, which is not installed", fix="pip install 'ingot-compiler[compile]'")
    if isinstance(model, str | Path):
        source = _from_name(str(model))
    else:
        from ingot.frontend.python_object import from_object

        source = from_object(model, getattr(model, "__name__", type(model).__name__))
    _refuse_scripted(source.module)
    if source.dynamic_shapes is not None:
        source.dynamic_shapes = _by_parameter(source)
    if inputs is not None:
        _replace_examples(source, inputs)
    elif not source.args and not source.kwargs:
        raise _examples_missing(source, model)
    _refuse_meta(source.module)
    return source


def _from_name(model: str) -> Source:
    # Each kind is imported when one is met: transformers costs a second that a plain module need not pay.
    path = Path(model).expanduser()
    if model and path.is_dir():
        if (path / "modules.json").is_file():
            from ingot.frontend.sentence_transformers import from_folder as from_sentence_transformers

            return from_sentence_transformers(path)
        from ingot.frontend.huggingface import from_folder

        return from_folder(path)
    if model and path.exists():
        raise UsageError(f"'{model}' is a file; a model is read from {ACCEPTED}", fix=_instead_of(path))
    if _PYTHON_NAME.match(model):
        from ingot.frontend.python_object import from_import

        return from_import(model)
    fix = ACCEPTED
    if _HUB_ID.match(model):
        fix = f"nothing is downloaded while compiling: hf download {model} --local-dir {path.name}, then {path.name}"
    raise UsageError(f"there is no file or folder '{model}'", fix=fix)


def _instead_of(file: Path) -> str:
    if file.suffix == ".safetensors" or file.name == "config.json":
        return f"its folder, with config.json beside the weights: {file.parent}"
    if file.suffix == ".py":
        return f"{file.stem}:NAME, for a module or a function that {file.name} defines"
    if file.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return "package.module:name, for a function that builds the module and loads this file's state_dict"
    return "package.module:name, for a function that builds the same model in PyTorch"


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of one call: a mapping is keywords, a tuple or list is positional, anything else the one argument.

    Arrays become tensors of their own memory, in native byte order, however they are nested.
    """
    if isinstance(inputs, Mapping):
        return (), {str(name): _as_tensors(inputs[name], str(name)) for name in inputs}
    if isinstance(inputs, tuple | list):
        return tuple(_as_tensors(item, f"input {index}") for index, item in enumerate(inputs)), {}
    return (_as_tensors(inputs, "the input"),), {}


def _as_tensors(value: Any, name: str) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        import torch

        array = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(array)
        except TypeError as error:
            raise UsageError(f"{name} is an array of {array.dtype}, which no tensor can hold") from error
    if type(value) is dict:
        return {key: _as_tensors(item, f"{name}.{key}") for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_as_tensors(item, f"{name}.{index}") for index, item in enumerate(value))
    return value


def load_inputs(path: str | Path) -> dict[str, torch.Tensor]:
    """The arrays of an .npz file by name, as tensors.

    Raises UsageError where it is not one, or holds Python objects.
    """
    fix = "numpy.savez('inputs.npz', NAME=array, …) writes one array for each input"
    try:
        # numpy leaves a file open that it opened itself and then could not read.
        with open(path, "rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UsageError(f"'{path}' holds one array without a name", fix=fix)
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"there is no file '{path}'", fix=fix) from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"'{path}' is not readable as .npz: {error}", fix=fix) from error
    if not arrays:
        raise UsageError(f"'{path}' holds no arrays", fix=fix)
    return as_call(arrays)[1]


def _by_parameter(source: Source) -> dict[str, Any]:
    """The source's dynamic shapes by parameter name; torch.export takes a tuple too, in the order of its own call."""
    from ingot.frontend.dims import by_parameter
    from ingot.frontend.structure import take_apart

    if source.args or source.kwargs:
        names = list(take_apart(source.module.forward, source.args, source.kwargs).trees)
    else:
        names = list(inspect.signature(source.module.forward).parameters)
    return by_parameter(source.dynamic_shapes, names)


def _replace_examples(source: Source, inputs: Any) -> None:
    source.args, source.kwargs = as_call(inputs)
    source.drawn = False
    if source.dynamic_shapes is None:
        return
    # A folder's forward swallows any keyword; only the named ones are inputs.
    parameters = inspect.signature(source.module.forward).parameters
    named = [item.name for item in parameters.values() if item.kind is not item.VAR_KEYWORD]
    strange = [name for name in source.kwargs if name not in named]
    if strange or len(source.args) > len(named):
        close = difflib.get_close_matches(strange[0], named, 1) if strange else []
        raise UsageError(
            f"{source.name} has no input '{strange[0]}'" if strange else f"{source.name} takes {len(named)} inputs",
            fix=f"did you mean {close[0]}?" if close else f"it takes {', '.join(named)}",
        )
    given = {*named[: len(source.args)], *source.kwargs}
    known = {name: axes for name, axes in source.dynamic_shapes.items() if name in given}
    # An input that the source knows nothing about leaves all axes to the frontend, which names them alike.
    source.dynamic_shapes = known if len(known) == len(given) else None
    if source.text is not None:
        fed = {key: name for key, name in source.text.inputs.items() if name in given}
        source.text = replace(source.text, inputs=fed)


def _examples_missing(source: Source, model: Any) -> UsageError:
    parameters = inspect.signature(source.module.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [item.name for item in parameters if item.default is item.empty and item.kind not in variadic]
    names = needed or ["x"]
    what = f"{source.name} is a module, and tracing it takes example inputs"
    if isinstance(model, str):
        arrays = ", ".join(f"{name}=…" for name in names)
        return UsageError(
            what,
            fix=f"python -c \"import numpy; numpy.savez('inputs.npz', {arrays})\" && "
            f"ingot compile {model} --inputs inputs.npz",
        )
    examples = names[0] if len(names) == 1 else "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"
    return UsageError(what, fix=f"ingot.compile(model, {examples}), each an example tensor of a batch of 2")


def _refuse_scripted(module: torch.nn.Module) -> None:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        made = getattr(module, "original_name", type(module).__name__)
        raise SourceError(
            f"the model is a torch.jit.ScriptModule of {made}, which torch.export cannot trace",
            fix=f"compile the module that it was made from: the nn.Module {made}, before torch.jit.script or .trace",
        )


def _refuse_meta(module: torch.nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise SourceError(
            f"the module has no weights yet: {', '.join(empty[:3])}{more} on the meta device",
            fix='module.to_empty(device="cpu"), then module.load_state_dict(weights)',
        )
