"""Which nodes ONNX Runtime's CUDA provider has a kernel for, from the registry of its wheel and ONNX's definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ingot.backends.contract import Covered, No, Yes
from ingot.backends.onnxruntime.coverage import KERNEL, Kernel, end_of, not_taken

_TABLE = Path(__file__).with_name("kernels.txt")


@cache
def kernels() -> dict[str, list[Kernel]]:
    """By operator, in alphabetical order."""
    found: dict[str, list[Kernel]] = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            operator, low, high, *types = line.split()
            last = end_of(int(low), operator) if high == "-" else int(high)
            dtypes = {name: frozenset(kinds.split(",")) for name, _, kinds in (text.partition("=") for text in types)}
            found.setdefault(operator, []).append(Kernel(int(low), last, dtypes))
    return found


def coverage() -> list[Covered]:
    """One row for each operator and range of operator sets; its dtypes are those of the type that ONNX calls T, or of
    the first."""
    rows: dict[tuple[str, int, int | None], set[str]] = {}
    for operator, known in kernels().items():
        for kernel in known:
            row = rows.setdefault((operator, kernel.low, kernel.high), set())
            row.update(kernel.dtypes.get("T") or next(iter(kernel.dtypes.values()), ()))
    return [
        Covered(operator, low, high, tuple(sorted(dtypes)), KERNEL) for (operator, low, high), dtypes in rows.items()
    ]


def kernel_for(node: ir.Node, version: int) -> Yes | No:
    """Whether the provider takes the node, by operator set, all dtypes and the attributes that it turns down."""
    if node.domain != "":
        return No(f"ONNX Runtime's CUDA provider is not used for {node.domain}.{node.op_type}")
    if node.op_type == "Constant":
        return Yes("a value of the graph: no kernel is needed")
    known = [
        kernel
        for kernel in kernels().get(node.op_type, ())
        if kernel.low <= version and (kernel.high is None or version <= kernel.high)
    ]
    if not known:
        return No(f"ONNX Runtime has no CUDA kernel for {node.op_type} of operator set {version}")
    if (dtypes := not_taken(known, node, version)) is not None:
        return No(f"ONNX Runtime's CUDA kernel for {node.op_type} does not take {dtypes}")
    declines = _DECLINES.get(node.op_type)
    if declines is not None and (reason := declines(node)) is not None:
        return No(f"ONNX Runtime's CUDA kernel for {node.op_type} does not take {reason}")
    return Yes(KERNEL)


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _last_index(node: ir.Node) -> str | None:
    return "select_last_index=1" if _attribute(node, "select_last_index", 0) else None


def _training(node: ir.Node) -> str | None:
    return "training_mode=1" if _attribute(node, "training_mode", 0) else None


def _uneven_padding(node: ir.Node) -> str | None:
    """cuDNN pads both ends alike."""
    automatic = _attribute(node, "auto_pad", "NOTSET")
    pads = list(_attribute(node, "pads", []))
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return f"auto_pad={automatic}"
    return f"pads={pads}, which differ at the two ends" if pads[: len(pads) // 2] != pads[len(pads) // 2 :] else None


_CELLS: Mapping[str, tuple[str, ...]] = {
    "RNN": ("tanh", "tanh"),
    "GRU": ("sigmoid", "tanh", "sigmoid", "tanh"),
    "LSTM": ("sigmoid", "tanh", "tanh", "sigmoid", "tanh", "tanh"),
}
"""The activations of cuDNN's recurrent cells, both directions."""


def _uncommon_cell(node: ir.Node) -> str | None:
    for name in ("activation_alpha", "activation_beta", "clip"):
        if name in node.attributes:
            return name
    activations = [name.lower() for name in _attribute(node, "activations", [])]
    if activations != list(_CELLS[node.op_type][: len(activations)]):
        return f"activations={activations}"
    if node.op_type == "GRU" and _attribute(node, "linear_before_reset", 0) != 1:
        return "linear_before_reset=0"
    if _attribute(node, "input_forget", 0):
        return "input_forget=1"
    return "peepholes" if node.op_type == "LSTM" and len(node.inputs) > 7 and node.inputs[7] is not None else None


_DECLINES: Mapping[str, Callable[[ir.Node], str | None]] = {
    "ArgMax": _last_index,
    "ArgMin": _last_index,
    "BatchNormalization": _training,
    "ConvTranspose": _uneven_padding,
    "GRU": _uncommon_cell,
    "LSTM": _uncommon_cell,
    "RNN": _uncommon_cell,
}
"""What the provider turns down beside dtypes: such nodes it would leave to the processor, or refuse at load."""
