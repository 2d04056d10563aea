"""inline_functions: a call of a local function becomes its body."""

from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import onnx_ir as ir

from ingot.ir.provenance import MODULE, module_path
from ingot.passes.contract import run_passes
from ingot.passes.inline_functions import InlineFunctions

CALLS = """<ir_version: 10, opset_import: ["": 20, "{domain}": 1]>
    g (float[B] x, bool c) => (float[B] y) {{
        a = {domain}.Twice <times = 3.0> (x)
        b = {domain}.Twice <times = 5.0> (a)
        y = If (c) <then_branch = t () => (float[B] p) {{ p = {domain}.Twice <times = 7.0> (b) }},
                    else_branch = e () => (float[B] q) {{ q = Neg(b) }}>
    }}
    <domain: "{domain}", opset_import: ["": 20]> Twice <times> (v) => (r) {{
        k = Constant <value_float: float = @times> ()
        s = Mul(v, k)
        r = Add(s, v)
    }}"""


def model(domain: str) -> ir.Model:
    built = ir.from_proto(onnx.parser.parse_model(CALLS.format(domain=domain)))
    for node in built.graph.all_nodes():
        node.metadata_props[MODULE] = f"module.{node.outputs[0].name}"
    return built


def test_rewrites(same_numbers: Callable[[ir.Model, ir.Model], None]):
    before, after = model("pkg.torch"), model("pkg.torch")
    (report,) = run_passes(after, [InlineFunctions()])
    assert report.rewrites == 3
    assert not after.functions
    assert [node.op_type for node in after.graph] == ["Constant", "Mul", "Add"] * 2 + ["If"]
    assert [module_path(node) for node in after.graph][:6] == ["module.a"] * 3 + ["module.b"] * 3
    same_numbers(before, after)
    assert run_passes(after, [InlineFunctions()])[0].rewrites == 0


def test_declines_functions_of_ours():
    kept = model("ingot")
    (report,) = run_passes(kept, [InlineFunctions()])
    assert report.rewrites == 0
    assert len(report.declined) == 3
    assert [node.op_type for node in kept.graph] == ["Twice", "Twice", "If"]


def test_the_attribute_of_the_call_reaches_the_body():
    after = model("pkg.torch")
    run_passes(after, [InlineFunctions()])
    constants = [node.attributes["value_float"].as_float() for node in after.graph if node.op_type == "Constant"]
    assert constants == [3.0, 5.0]
