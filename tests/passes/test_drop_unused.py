"""drop_unused: what no output depends on is removed."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from ingot.passes.contract import run_passes
from ingot.passes.drop_unused import DropUnused


def test_rewrites_a_chain_and_its_weight(rewrites):
    checked = rewrites(
        DropUnused(),
        "g (float[B] x) => (float[B] y) <float w = {2}, float v = {3}>"
        "{ a = Mul(x, w)  b = Neg(a)  c = Exp(b)  y = Mul(x, v) }",
    )
    assert checked.operators == ["Mul"]
    assert list(checked.model.graph.initializers) == ["v"]


def test_a_dropped_body_lets_go_of_what_it_read(rewrites):
    checked = rewrites(
        DropUnused(),
        """g (bool c, float[B] x) => (float[B] y) {
            a = Relu(x)
            z = If (c) <then_branch = t () => (float[B] p) { p = Neg(a) },
                        else_branch = e () => (float[B] q) { q = Exp(a) }>
            y = Neg(x)
        }""",
    )
    assert checked.operators == ["Neg"]


def test_rewrites_inside_a_body(rewrites):
    checked = rewrites(
        DropUnused(),
        """g (bool c, float[B] x) => (float[B] y) {
            y = If (c) <then_branch = t () => (float[B] p) <float k = {2}> { a = Mul(x, k)  p = Neg(x) },
                        else_branch = e () => (float[B] q) { q = Exp(x) }>
        }""",
    )
    assert checked.report.rewrites == 2 + 1  # a node, its weight, and the import that `build` adds


def test_what_a_body_reads_stays(declines):
    model_text = """g (bool c, float[B] x) => (float[B] y) <float w = {2}> {
        a = Mul(x, w)
        y = If (c) <then_branch = t () => (float[B] p) { p = Neg(a) },
                    else_branch = e () => (float[B] q) { q = local.Exp(a) }>
    }"""
    declines(DropUnused(), model_text)


def test_declines_an_unread_input_and_an_initializer_that_is_an_input(declines):
    declines(DropUnused(), "g (float[B] x, float[B] z, float k) => (float[B] y) <float k = {1}> { y = local.F(x) }")


def test_functions_and_imports():
    text = """<ir_version: 10, opset_import: ["": 20, "f": 1, "gone": 1]>
        g (float[B] x) => (float[B] y) { y = f.Outer(x) }
        <domain: "f", opset_import: ["": 20, "f": 1]> Outer (a) => (b) { b = f.Inner(a)  unread = Neg(a) }
        <domain: "f", opset_import: ["": 20]> Inner (a) => (b) { b = Relu(a) }
        <domain: "f", opset_import: ["": 20]> Lost (a) => (b) { b = Neg(a) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    (report,) = run_passes(model, [DropUnused()])
    assert report.rewrites == 3
    assert sorted(name for _, name, _ in model.functions) == ["Inner", "Outer"]
    assert model.opset_imports == {"": 20, "f": 1}
    assert run_passes(model, [DropUnused()])[0].rewrites == 0
