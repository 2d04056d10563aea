"""Holds a parsed network's inputs and outputs to what the lowered graph declares, in the child, right after parsing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "float8_e4m3fn",
    "INT4": "int4",
}
"""TensorRT's dtypes as a signature spells them."""

Declared = Mapping[str, Sequence[Any]]
"""{"inputs": [[name, dtype, shape], ...], "outputs": ..., "unread": [name, ...]}: a shape of sizes, and of names for
dynamic dims; unread are the inputs that the graph itself does not read (operators.unread_inputs)."""


def audit(network: Any, declared: Declared) -> list[str]:
    """One sentence for each thing that differs; empty where the parser kept the interface.

    An input that no layer reads is told too: whatever read it, the parser dropped.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    found = [*_compared("input", inputs, declared["inputs"]), *_compared("output", outputs, declared["outputs"])]
    read = set(_read(network))
    excused = {tensor.name for tensor in outputs} | set(declared.get("unread", ()))
    found += [
        f"the parser left nothing that reads the input {tensor.name}"
        for tensor in inputs
        if tensor.name not in read and tensor.name not in excused
    ]
    return found


def _read(network: Any) -> Iterator[str]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_inputs):
            tensor = layer.get_input(place)
            if tensor is not None:
                yield tensor.name


def _compared(kind: str, tensors: Sequence[Any], declared: Sequence[Sequence[Any]]) -> Iterator[str]:
    made = {tensor.name: tensor for tensor in tensors}
    names = [row[0] for row in declared]
    for name in made:
        if name not in names:
            yield f"the parser made an {kind} {name} that the graph does not declare"
    if list(made) != names and set(made) == set(names):
        yield f"the parser made the {kind}s in the order {', '.join(made)}, not {', '.join(names)}"
    for name, dtype, shape in declared:
        if name not in made:
            yield f"the parser dropped the {kind} {name}"
            continue
        own = DTYPES.get(made[name].dtype.name, made[name].dtype.name)
        if own != dtype:
            yield f"the parser made the {kind} {name} {own}, declared is {dtype}"
        if problem := _shape(list(made[name].shape), shape):
            yield f"the parser made the {kind} {name} {problem}"


def _shape(made: Sequence[int], declared: Sequence[Any]) -> str | None:
    """A dim that the network knows and the graph does not is no fault, nor the other way round."""
    if len(made) != len(declared):
        return f"of rank {len(made)}, declared is {len(declared)}"
    for own, size in zip(made, declared, strict=True):
        if isinstance(size, int) and size >= 0 and own >= 0 and own != size:
            return f"{list(made)}, declared is {list(declared)}"
    return None
