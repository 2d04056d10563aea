"""A failed trace or translation in words: the user's own line, what is wrong in a sentence, and code to paste."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError, GuardOnDataDependentSymNode

from ingot.errors import CompileError, ExportError, UnsupportedOperatorError
from ingot.frontend.structure import Call
from ingot.ir.provenance import FRAME, TORCH

_BRANCH_FIX = """decide with tensors instead of Python:
             y = torch.where(condition, a, b)                    # both sides are computed
             y = torch.cond(condition, true_fn, false_fn, (x,))  # one side is computed"""

_SIZE_FIX = """keep the size out of the data: mask instead of cutting, e.g.
             keep = torch.arange(x.shape[0]) < n     # n a tensor, not n.item()
             y = torch.where(keep[:, None], x, 0)"""

_NUMPY_FIX = (
    "keep the computation in torch: torch.from_numpy(table) once in __init__ (a buffer), torch functions in forward"
)


def explain_export_failure(error: Exception, module: torch.nn.Module, call: Call) -> CompileError:
    """What kept torch.export from tracing `module`; our own errors pass as they are.

    The model is run once more in plain eager: where that raises too, tracing is not to blame.
    """
    if isinstance(error, CompileError):
        return error
    line = user_line(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        if "Could not guard" in str(error):
            return ExportError(
                "forward decides in Python by the values of a tensor; an engine has one graph for all values",
                where=line,
                fix=_BRANCH_FIX,
            )
        return ExportError("forward uses the values of a tensor as a size", where=line, fix=_SIZE_FIX)
    if isinstance(error, ConstraintViolationError):
        return ExportError(f"the declared dims do not hold: {_first_line(error)}", where=line, fix="fewer dynamic dims")
    eager = _eager_failure(module, call)
    if eager is not None:
        return ExportError(
            f"the model's own forward raises {type(eager).__name__} on the example inputs: {_first_line(eager)}",
            where=user_line(eager),
            fix="example inputs that the model runs on: model(*inputs) must work before it can be compiled",
        )
    numpy = ".numpy() is not supported" in str(error) or "numpy" in (line or "").rpartition(": ")[2]
    return ExportError(
        f"torch.export cannot trace the model: {type(error).__name__}: {_first_line(error)}",
        where=line,
        fix=_NUMPY_FIX if numpy else "replace the expression on that line by torch operators on tensors",
    )


def explain_translation_failure(
    error: Exception,
    program: torch.export.ExportedProgram,
    translations: Mapping[Callable[..., Any], Callable[..., Any]],
) -> CompileError:
    """Every operator of the trace without a translation, each with the line that calls it."""
    missing = _untranslated(program, translations)
    if not missing:
        cause = error.__cause__ or error
        deepest = cause
        while deepest.__cause__ is not None:
            deepest = deepest.__cause__
        return ExportError(
            f"a traced operator could not be translated: {_first_line(deepest)[:200]}",
            where=_failed_node(cause, program),
            fix="INGOT_DEBUG=1 shows the whole error; `translations` replaces the translation of an operator",
        )
    listed = "".join(f"\n  {name}  {line}" for name, line in missing.items())
    first = next(iter(missing))
    return UnsupportedOperatorError(
        f"{len(missing)} operator{'s have' if len(missing) > 1 else ' has'} no translation:{listed}",
        fix=f"""write it with other operators, or give a translation of your own:
             from onnxscript import opset23 as op
             def translate(x):                   # the operator's arguments; returns its results
                 return op.Identity(x)
             ingot.compile(model, inputs, translations={{torch.ops.{first}: translate}})""",
    )


def user_line(error: BaseException) -> str | None:
    """ "model.py:12: the code" of the innermost frame outside torch that ran model code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = frame.filename.replace("\\", "/")
        ours = path.endswith(("/frontend/structure.py", "/frontend/export.py")) or "/ingot/plugins/" in path
        if not TORCH.search(frame.filename) and not frame.filename.startswith("<") and not ours:
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _eager_failure(module: torch.nn.Module, call: Call) -> Exception | None:
    try:
        args, kwargs = call.rebuild([tensor.clone() for tensor in call.tensors])
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  whatever a user's forward raises is the answer
        return error
    return None


def _untranslated(
    program: torch.export.ExportedProgram, translations: Mapping[Callable[..., Any], Callable[..., Any]]
) -> dict[str, str]:
    # torch has no public list of what its table holds.
    from torch.onnx._internal.exporter._fx_passes import decompose_with_registry
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    registry = ONNXRegistry.from_torchlib()
    for target, function in translations.items():
        registry.register_op(target, function)
    missing: dict[str, str] = {}
    for node in decompose_with_registry(program, registry).graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = str(node.target)
        # Assertions are dropped and sizes translated without a table.
        if not registry.is_registered(node.target) and "_assert" not in name and "sym_" not in name:
            missing.setdefault(name, _fx_line(node))
    return missing


def _failed_node(error: BaseException, program: torch.export.ExportedProgram) -> str | None:
    """The operator that torch's message names, and the user's line."""
    said = str(error)
    for node in program.graph.nodes:
        if node.op == "call_function" and f"%{node.name} :" in said:
            return f"{node.target}, {_fx_line(node)}"
    return None


def _fx_line(node: torch.fx.Node) -> str:
    lines = (node.meta.get("stack_trace") or "").splitlines()
    found = ""
    for index, text in enumerate(lines):
        frame = FRAME.match(text)
        if frame and not TORCH.search(frame["path"]):
            code = lines[index + 1].strip() if index + 1 < len(lines) else ""
            found = f"{frame['path']}:{frame['line']}: {code}"
    return found
