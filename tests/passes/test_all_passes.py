"""The passes together, on what torch's exporter writes for a small sentence encoder."""

from __future__ import annotations

import collections
import warnings

import onnx_ir as ir
import pytest
import torch

from ingot.frontend.export import export
from ingot.frontend.source import Source
from ingot.ir.provenance import compact_provenance
from ingot.models.catalogue import CATALOGUE
from ingot.passes.contract import run_passes
from ingot.pipeline import passes

LAYERS, HEADS, WIDTH = 2, 4, 32


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(WIDTH) for _ in range(2)])

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.heads(projection(x)) for projection in (self.query, self.key, self.value))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        joined = attended.transpose(1, 2).reshape(*x.shape).contiguous()
        x = self.norms[0](x + torch.nn.functional.dropout(self.out(joined), training=self.training))
        return self.norms[1](x + self.down(torch.nn.functional.gelu(self.up(x))))


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = torch.nn.Embedding(50, WIDTH), torch.nn.Embedding(64, WIDTH)
        self.layers = torch.nn.ModuleList([Layer() for _ in range(LAYERS)])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])).unsqueeze(0)
        allowed = mask.to(torch.bool)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        for layer in self.layers:
            x = layer(x, allowed)
        weights = mask.unsqueeze(-1).to(x.dtype)
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


@pytest.fixture(scope="module")
def exported() -> ir.Model:
    dims = {0: torch.export.Dim("B"), 1: torch.export.Dim("S", max=64)}
    example = torch.ones(2, 3, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Encoder().eval(), (example, example), dynamic_shapes=(dims, dims), strict=False)
        program = program.run_decompositions({})
        translated = torch.onnx.export(program, dynamo=True, opset_version=23, optimize=False, verbose=False)
    assert translated is not None
    model = translated.model
    compact_provenance(model)
    # The exporter names dims as torch's tracer does.
    names = dict(zip(map(str, model.graph.inputs[0].shape), "BS", strict=True))
    for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(dim), dim) for dim in value.shape])
    return model


@pytest.fixture
def model(exported: ir.Model) -> ir.Model:
    return exported.clone()


def test_the_graph_is_near_its_minimum(model):
    reports = run_passes(model, passes())
    counts = collections.Counter(node.op_type for node in model.graph)
    assert reports[0].nodes_before > 2.5 * reports[-1].nodes_after
    assert counts["Attention"] == LAYERS
    assert counts["MatMul"] == 6 * LAYERS
    # A bias each, two residuals, and the sum of the embeddings.
    assert counts["Add"] == 8 * LAYERS + 1
    assert counts["LayerNormalization"] == 2 * LAYERS
    assert counts["Transpose"] == 0
    for gone in ("Constant", "Identity", "CastLike", "Dropout"):
        assert counts[gone] == 0, gone
    # What is left of reshaping is the mask's and the positions', once for all layers.
    assert counts["Reshape"] + counts["Unsqueeze"] + counts["Expand"] <= 6


def test_same_numbers(model, exported, same_numbers):
    run_passes(model, passes())
    same_numbers(exported, model)


def test_again_changes_nothing(model):
    run_passes(model, passes())
    assert [report.rewrites for report in run_passes(model, passes())] == [0] * len(passes())


@pytest.mark.parametrize("name", ["nested", "recurrent", "residual"])
def test_once_is_enough(name):
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    example = entry.build(0)
    source = Source(name, example.module, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes)
    model = export(source).model
    run_passes(model, passes())
    assert not {"Constant", "Identity", "CastLike"} & {node.op_type for node in model.graph}
    assert [report.name for report in run_passes(model, passes()) if report.rewrites] == []


LAYER = """
    s{0} = Shape(x{0})  i{0} = Constant <value_ints = [0, 1]> ()  b{0} = Gather(s{0}, i{0})
    h{0} = Constant <value_ints = [2, 4]> ()  t{0} = Concat <axis = 0> (b{0}, h{0})
    r{0} = Reshape(x{0}, t{0})  p{0} = Transpose <perm = [0, 2, 1, 3]> (r{0})
    q{0} = Transpose <perm = [0, 2, 1, 3]> (p{0})  f{0} = Shape(x{0})  y{0} = Reshape(q{0}, f{0})
    c{0} = Constant <value_float = 1.0> ()  l{0} = CastLike(c{0}, y{0})  m{0} = Mul(y{0}, l{0})  d{0} = Identity(m{0})
    e{0} = Relu(d{0})  g{0} = Relu(d{0})  a{0} = Add(e{0}, g{0})  x{1} = Neg(a{0})
"""


def test_work_grows_with_the_nodes(build, count_calls):
    def calls(layers: int) -> int:
        steps = "".join(LAYER.format(i, i + 1) for i in range(layers))
        model = build(f"g (float[B, S, 8] x0) => (float[B, S, 8] x{layers}) {{ {steps} }}", infer=False)
        assert model.graph.num_nodes() == 18 * layers
        made = count_calls(lambda: run_passes(model, passes()))
        assert model.graph.num_nodes() == 3 * layers
        return made

    # Ten times the nodes; a quadratic pass would make 100 times the calls.
    assert calls(300) < 15 * calls(30)


def test_weights_are_stored_once_and_copied_never(model):
    weight_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    run_passes(model, passes())
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert stored < 1.02 * weight_bytes
    for value in model.graph.initializers.values():
        if value.const_value.nbytes > 1024:
            assert not value.const_value.numpy().flags.owndata, value.name


def test_every_node_still_says_where_it_came_from(model):
    run_passes(model, passes())
    assert {node.metadata_props["ingot.module"] for node in model.graph if node.op_type == "Attention"} == {
        f"layers.{i}" for i in range(LAYERS)
    }
