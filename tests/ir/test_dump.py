"""The readable text of a graph: one node a line, the same for the same graph."""

from __future__ import annotations

import difflib

import onnx.parser
import onnx_ir as ir

from ingot.ir.dump import readable

TEXT = """<ir_version: 10, opset_import: ["": 20, "f": 1]>
    g (bool c, float[B, 4] x) => (float[B, 4] y) <float[3, 4] w, int64[2] s = {0, 4}, float[B, 4] a> {
        a = Reshape(x, s)
        b, m = f.Twice <times = 3> (a, , w)
        y = If (c) <then_branch = t () => (float[B, 4] p) { p = Neg(b) },
                    else_branch = e () => (float[B, 4] q) { q = Cast <to = 1> (b) }>
    }
    <domain: "f", opset_import: ["": 20]> Twice <times> (u, v, z) => (r, q) {
        r = Add(u, z)  q = Pow <times: int = @times> (u) }"""

EXPECTED = """\
graph(%c: bool[], %x: f32[B,4])
  weight %w: f32[3,4]
  %a: f32[B,4] = Reshape(%x, [0,4])  # encoder.view
  %b: ?[?], %m: ?[?] = f::Twice(%a, none, %w, times=3)
  %y: f32[B,4] = If(%c, then_branch=body, else_branch=body)
    body()
      %p: f32[B,4] = Neg(%b)
      return %p
    body()
      %q: f32[B,4] = Cast(%b, to=1)
      return %q
  return %y
function f::Twice(%u: ?[?], %v: ?[?], %z: ?[?])
  %r: ?[?] = Add(%u, %z)
  %q: ?[?] = Pow(%u, times=@times)
  return %r, %q
"""


def parse() -> ir.Model:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", 1, [3, 4], [0.0] * 12))
    model = ir.from_proto(proto)
    model.graph[0].metadata_props["ingot.module"] = "encoder.view"
    return model


def test_text():
    assert readable(parse()) == EXPECTED


def test_one_changed_node_changes_one_line():
    model = parse()
    model.graph[0].attributes.add(ir.AttrInt64("allowzero", 1))
    changed = [line for line in difflib.ndiff(EXPECTED.splitlines(), readable(model).splitlines()) if line[0] in "+-"]
    assert changed == [
        "-   %a: f32[B,4] = Reshape(%x, [0,4])  # encoder.view",
        "+   %a: f32[B,4] = Reshape(%x, [0,4], allowzero=1)  # encoder.view",
    ]


def test_a_large_constant_in_an_attribute_is_not_written_out():
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor([0.0] * 1000))], outputs=[ir.val("y")])
    graph = ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 20}, name="g")
    assert "Constant(value=float[1000])" in readable(ir.Model(graph, ir_version=10))
