"""Lists a network's layers as plain JSON: kind, dtypes, shapes, and the graph's nodes that each came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=$|[\x1e,\[])")


def listed(network: Any, where: Mapping[str, str]) -> list[dict[str, Any]]:
    """`where` maps the name of a node of the graph to its place in the user's code."""
    tensors: dict[str, dict[str, Any]] = {}
    return [_layer(network.get_layer(index), where, tensors) for index in range(network.num_layers)]


def _layer(layer: Any, where: Mapping[str, str], tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`tensors` has what was said of each tensor already: most are read as often as they are written."""
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    nodes = _NODE.findall(layer.metadata or "")
    places = dict.fromkeys(where[node] for node in nodes if where.get(node))
    return {
        "name": layer.name,
        "kind": layer.type.name,
        "inputs": [_tensor(tensor, tensors) for tensor in inputs if tensor is not None],
        "outputs": [_tensor(tensor, tensors) for tensor in outputs if tensor is not None],
        "nodes": nodes,
        "where": list(places),
    }


def _tensor(tensor: Any, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    name = tensor.name
    if name not in known:
        try:
            shape = [int(size) for size in tensor.shape]
        except ValueError:  # of an unknown rank
            shape = None
        known[name] = {"name": name, "dtype": tensor.dtype.name, "shape": shape}
    return known[name]


def precisions(layers: list[dict[str, Any]]) -> dict[str, int]:
    """How many layers give each dtype, the commonest first."""
    counts: dict[str, int] = {}
    for layer in layers:
        for dtype in {tensor["dtype"] for tensor in layer["outputs"]}:
            counts[dtype] = counts.get(dtype, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
