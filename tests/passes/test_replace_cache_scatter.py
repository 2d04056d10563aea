"""replace_cache_scatter: the update of a linear cache is one TensorScatter, and other scatters stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from ingot.passes.contract import run_passes
from ingot.passes.replace_cache_scatter import ReplaceCacheScatter

# The fixture draws 0 or 1 for a start, and up to 5 for S: inside the 9 of the cache.
GRAPH = """g (float[{batch}, 3, 9, 4] cache, float[{batch}, 3, S, 4] new, int64{start} start{more})
    => (float[{batch}, 3, 9, 4] y) {{
    length = Shape <start = 2, end = 3> (new)  count = Squeeze(length)
    steps = Range({first}, count, {step})  positions = Add({added})
    rows = {rows}
    moved = Transpose <perm = [{order}]> (cache)  update = Transpose <perm = [{order}]> (new)
    scattered = ScatterND{reduction}(moved, rows, update)
    y = Transpose <perm = [{back}]> (scattered) }}"""

PARTS = {
    "batch": "1",
    "start": "[1]",
    "more": "",
    "first": "zero",
    "step": "one",
    "added": "start, steps",
    "rows": "Unsqueeze(positions, last)",
    "order": "2, 0, 1, 3",
    "back": "1, 2, 0, 3",
    "reduction": "",
}
CONSTANTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "last": np.array([-1]),
    "column": np.array([-1, 1]),
}


def text(**parts: str) -> str:
    return GRAPH.format(**{**PARTS, **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"start": ""},
        {"added": "steps, start"},
        {"rows": "Reshape(positions, column)"},
        {"order": "3, 0, 1, 2", "back": "1, 2, 3, 0", "start": ""},
    ],
    ids=["start", "scalar", "swapped", "reshaped", "another axis"],
)
def test_rewrites(rewrites, parts):
    graph = text(**parts)
    if "3, 0" in parts.get("order", ""):
        graph = (
            graph.replace("3, 9, 4", "3, 4, 9").replace("3, S, 4", "3, 4, S").replace("= 2, end = 3", "= 3, end = 4")
        )
    checked = rewrites(ReplaceCacheScatter(), graph, opset=24, **CONSTANTS)
    scatter = checked.node("TensorScatter")
    assert "ScatterND" not in checked.operators
    assert scatter.inputs[0] is checked.model.graph.inputs[0]
    assert scatter.attributes.get_int("axis") == (3 if "3, 0" in parts.get("order", "") else 2)


def test_rewrites_an_update_that_is_already_in_front(rewrites):
    graph = text().replace("update = Transpose <perm = [2, 0, 1, 3]> (new)", "update = Identity(new)")
    graph = graph.replace("float[1, 3, S, 4] new", "float[S, 1, 3, 4] new").replace("= 2, end = 3", "= 0, end = 1")
    checked = rewrites(ReplaceCacheScatter(), graph, opset=24, **CONSTANTS)
    assert checked.node("TensorScatter").inputs[1].producer().op_type == "Transpose"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"batch": "2"}, "its batch is not 1"),
        ({"first": "one"}, "not a start and those behind it"),
        ({"step": "two"}, "not a start and those behind it"),
        ({"start": "[S]"}, "not a start and those behind it"),
        ({"more": ", int64[S] other", "added": "other, start"}, "not a start and those behind it"),
        ({"reduction": ' <reduction = "add"> '}, "it adds up"),
        ({"order": "2, 1, 0, 3", "back": "1, 2, 0, 3"}, "not moved back"),
    ],
    ids=["batch", "first", "step", "starts", "positions", "reduction", "order"],
)
def test_declines(declines, parts, reason):
    declines(ReplaceCacheScatter(), text(**parts), opset=24, infer=False, reason=reason, **CONSTANTS)


def test_declines_the_axis_of_the_batch(declines):
    graph = text(order="0, 1, 2, 3", back="0, 1, 2, 3")
    declines(ReplaceCacheScatter(), graph, opset=24, infer=False, reason="the axis in front is the batch", **CONSTANTS)


def test_declines_an_operator_set_without_tensor_scatter(declines):
    declines(ReplaceCacheScatter(), text(), opset=23, **CONSTANTS)


def test_the_written_place_is_the_cache_of_the_graph(build) -> None:
    """What TensorRT asks for: the cache an input of the network and its update an output, nothing between."""
    model = build(text(), opset=24, **CONSTANTS)
    run_passes(model, [ReplaceCacheScatter()])
    (scatter,) = (node for node in model.graph if node.op_type == "TensorScatter")
    assert isinstance(scatter, ir.Node)
    assert scatter.outputs[0] is model.graph.outputs[0]
