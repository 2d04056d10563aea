"""A PyTorch model becomes graph IR: torch.export traces it, torch's own table translates it, and the traps are closed.

What torch drops without a word is an error or a note here: mutated buffers, axes gone static, inputs that vanish,
example sizes of 1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from ingot.errors import ExportError
from ingot.frontend.dims import Traced, plan, read_traced, sized_for_tracing
from ingot.frontend.failure import explain_export_failure, explain_translation_failure
from ingot.frontend.source import Source
from ingot.frontend.structure import Call, FlatModule, Result, take_apart
from ingot.ir.provenance import compact_provenance
from ingot.ir.rewrite import fresh_name
from ingot.plugins.translations import attach_bodies, plugin_translations
from ingot.signature import Domain, Signature, Tensor, Tree, leaves

OPSET = 24
"""The opset of the IR: scaled_dot_product_attention is one Attention node from 23 on."""

_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx.experimental.symbolic_shapes")


@dataclass(slots=True)
class Exported:
    """A model as graph IR. `program` is the decomposed torch program whose FX node names are the IR's value names;
    `examples` are the user's tensors in the order of `signature.inputs`; `notes` say what a user should know."""

    model: ir.Model
    signature: Signature
    program: torch.export.ExportedProgram
    call: Call
    examples: list[torch.Tensor]
    notes: list[str] = field(default_factory=list)


def export(
    source: Source,
    *,
    dynamic_shapes: Any = None,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Exported:
    """Traces `source.module` (in eval mode) on its example inputs and translates the trace.

    `dynamic_shapes` overrides the source's; `translations` maps a torch operator overload to a function over
    onnxscript's opset, for operators that torch's table lacks.
    Raises ExportError or UnsupportedOperatorError, each with the user's own line.
    """
    call = take_apart(source.module.forward, source.args, source.kwargs)
    if not call.tensors:
        raise ExportError("the model is called without a tensor", fix="give example inputs: ingot.compile(model, x)")
    planned = plan(call, dynamic_shapes if dynamic_shapes is not None else source.dynamic_shapes)
    notes: list[str] = []
    domains = dict(source.domains)
    tensors = _with_padding(call, sized_for_tracing(call, planned), domains)
    result = Result()
    flat = FlatModule(source.module, call, result)
    # Without gradients, as the engine runs: with them, attention under a learned bias (T5, Swin) picks another kernel
    # while tracing than while translating, and their memory layouts disagree.
    with _quiet(), torch.no_grad(), _FourAxes():
        try:
            program = torch.export.export(flat, tuple(tensors), dynamic_shapes=(planned.torch_spec(),), strict=False)
        except Exception as error:
            raise explain_export_failure(error, source.module, call) from error
    assert result.tree is not None
    if not list(leaves(result.tree)):
        raise ExportError("the model gives no tensor", fix="return the tensors that the engine is to compute")
    placeholders = _user_placeholders(program)
    values = [node.meta["val"] for node in placeholders]
    traced = read_traced(call.names, values, planned, program.range_constraints)
    notes += traced.notes
    for name, node in zip(call.names, placeholders, strict=True):
        if not node.users:
            notes.append(f"the model does not use its input '{name}'; the engine takes it and ignores it")
        domains.update(_embedding_domain(name, node) if name not in domains else {})
    with _quiet(), torch.no_grad():
        try:
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                custom_translation_table={**plugin_translations(), **(translations or {})},
            )
        except Exception as error:
            raise explain_translation_failure(error, program, translations or {}) from error
    assert translated is not None
    assert translated.exported_program is not None
    attach_bodies(translated.model)
    # Only the decomposed program says what was mutated; its translation leaves that out without a word.
    _refuse_state(translated.exported_program, call, notes)
    signature = _finish(translated.model, call, result.tree, values, traced, domains)
    notes.append(f"traced {len(call.tensors)} inputs, dims {', '.join(map(str, traced.dims)) or 'all fixed'}")
    return Exported(translated.model, signature, translated.exported_program, call, call.tensors, notes)


class _FourAxes(torch.overrides.TorchFunctionMode):
    """Gives scaled_dot_product_attention without heads, [B, S, D], an axis of one head: ONNX's Attention has four."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not torch.nn.functional.scaled_dot_product_attention or len(args) < 3 or args[0].dim() != 3:
            return function(*args, **kwargs)
        query, key, value, *rest = args
        if rest:
            kwargs = {**kwargs, "attn_mask": rest[0], **dict(zip(("dropout_p", "is_causal"), rest[1:], strict=False))}
        mask = kwargs.get("attn_mask")
        if mask is not None and mask.dim() == 3:
            kwargs = {**kwargs, "attn_mask": mask.unsqueeze(1)}
        return function(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), **kwargs).squeeze(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch prints whole graphs and 300-line reports; what matters of them is in our own errors."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_padding(call: Call, tensors: list[torch.Tensor], domains: dict[str, Domain]) -> list[torch.Tensor]:
    """Zeros the last position of all-ones masks: code that skips an all-ones mask would be traced without it."""
    sized = []
    for name, tensor in zip(call.names, tensors, strict=True):
        integral = not tensor.is_floating_point() and not tensor.is_complex()
        named = "mask" in name.rsplit(".", 1)[-1] and name not in domains
        if named and integral and tensor.dim() == 2 and bool(((tensor == 0) | (tensor == 1)).all()):
            domains[name] = Domain(0, 1, "mask")
        mask = name in domains and domains[name].role == "mask"
        if mask and tensor.dim() >= 1 and tensor.shape[-1] > 1 and bool((tensor == 1).all()):
            tensor = tensor.clone()
            tensor.reshape(-1, tensor.shape[-1])[-1, -1] = 0
        sized.append(tensor)
    return sized


def _refuse_state(program: torch.export.ExportedProgram, call: Call, notes: list[str]) -> None:
    buffers = [name.removeprefix("model.") for name in program.graph_signature.buffers_to_mutate.values()]
    if buffers:
        raise ExportError(
            f"forward changes the buffer{'s' if len(buffers) > 1 else ''} {', '.join(buffers)}; "
            "an engine remembers nothing between calls, so the second call would be wrong",
            fix="return the new value as an output and take the old one as an input",
        )
    positions = {node.name: name for node, name in zip(_user_placeholders(program), call.names, strict=True)}
    for mutated in program.graph_signature.user_inputs_to_mutate.values():
        name = positions[mutated]
        notes.append(f"forward writes into its input '{name}'; the engine leaves the caller's array alone")


def _user_placeholders(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    kinds = torch.export.graph_signature.InputKind
    return [nodes[spec.arg.name] for spec in program.graph_signature.input_specs if spec.kind == kinds.USER_INPUT]


def _embedding_domain(name: str, node: torch.fx.Node) -> dict[str, Domain]:
    """An input that indexes a table may hold that table's row numbers and nothing else."""
    rows = [
        table.meta["val"].shape[0]
        for user in node.users
        if user.target is torch.ops.aten.embedding.default and user.args[1] is node
        for table in user.args[:1]
        if isinstance(table, torch.fx.Node)
    ]
    return {name: Domain(0, min(rows) - 1)} if rows else {}


def _finish(
    model: ir.Model,
    call: Call,
    result: Tree,
    values: list[torch.Tensor],
    traced: Traced,
    domains: Mapping[str, Domain],
) -> Signature:
    """Gives inputs, outputs, weights and dims the model's own names, and returns the signature."""
    graph = model.graph
    compact_provenance(model, root="model")
    taken = {str(value.name): value for value in _values(graph)}
    inputs = []
    for value, name, shape, tensor in zip(graph.inputs, call.names, traced.shapes, values, strict=True):
        _claim(name, value, taken)
        inputs.append(Tensor(name, _dtype(tensor.dtype), shape, domains.get(name)))
    for weight in list(graph.initializers.values()):
        own = str(weight.name).removeprefix("model.")
        _claim(f"{own}.weight" if own in call.names else own, weight, taken)
    _rename_dims(graph, traced)
    outputs = []
    shown = set(call.names)
    for index, (path, _) in enumerate(leaves(result)):
        name = path if path and not path[0].isdigit() else f"output_{path}" if path else "output"
        if name in call.names:
            name = f"{name}_output"
        name = fresh_name(name, shown)
        inner = graph.outputs[index]
        node = ir.node("Identity", [inner])
        graph.append(node)
        outer = node.outputs[0]
        outer.shape, outer.type = inner.shape, inner.type
        _claim(name, outer, taken)
        graph.outputs[index] = outer
        assert outer.shape is not None
        assert outer.dtype is not None
        axes = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in outer.shape)
        outputs.append(Tensor(name, str(outer.dtype.numpy().name), axes))
    return Signature(tuple(inputs), tuple(outputs), tuple(traced.dims), call.trees, result)


def _claim(name: str, owner: ir.Value, taken: dict[str, ir.Value]) -> None:
    """Names a value; one inside the graph that torch happened to name so gets another name."""
    other = taken.get(name)
    if other is not None and other is not owner:
        fresh = fresh_name(name, set(taken))
        other.name, taken[fresh] = fresh, other
    if owner.name is not None and taken.get(owner.name) is owner:
        del taken[owner.name]
    owner.name, taken[name] = name, owner


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _rename_dims(graph: ir.Graph, traced: Traced) -> None:
    known: dict[str, str] = {}
    for value in [*_values(graph), *graph.outputs]:
        if value.shape is None or value.shape.frozen:
            continue
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                text = str(dim.value)
                if text not in known:
                    known[text] = traced.renamed(text)
                value.shape[axis] = int(known[text]) if known[text].isdigit() else known[text]


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
