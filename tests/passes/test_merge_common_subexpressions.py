"""merge_common_subexpressions: what a graph computes twice it computes once."""

from __future__ import annotations

from ingot.passes.merge_common_subexpressions import MergeCommonSubexpressions


def test_rewrites(rewrites):
    checked = rewrites(
        MergeCommonSubexpressions(),
        """g (float[B, 4] x) => (float[B, 4] y) { a = Softmax <axis = 1> (x)  b = Softmax <axis = 1> (x)
        p = Neg(a)  q = Neg(b)  y = Add(p, q) }""",
    )
    # The second Neg is a twin only once the second Softmax is gone.
    assert checked.operators == ["Softmax", "Neg", "Add"]


def test_rewrites_all_outputs_of_a_node(rewrites):
    checked = rewrites(
        MergeCommonSubexpressions(),
        """g (float[4, B] x) => (float[2, B] y) { a, b = Split <num_outputs = 2> (x)  c, d = Split <num_outputs = 2> (x)
        p = Mul(a, d)  q = Sub(b, c)  y = Add(p, q) }""",
    )
    assert checked.operators == ["Split", "Mul", "Sub", "Add"]


def test_a_graph_output_keeps_its_name(rewrites):
    checked = rewrites(
        MergeCommonSubexpressions(),
        "g (float[B] x) => (float[B] y, float[B] z) { a = Relu(x)  y = Relu(x)  z = Neg(a) }",
    )
    assert checked.operators == ["Relu", "Neg"]
    assert checked.node("Neg").inputs[0].name == "y"


def test_rewrites_inside_a_body(rewrites):
    checked = rewrites(
        MergeCommonSubexpressions(),
        """g (bool c, float[B] x) => (float[B] y) {
            y = If (c) <then_branch = t () => (float[B] p) { a = Relu(x)  b = Relu(x)  p = Add(a, b) },
                        else_branch = e () => (float[B] q) { q = Neg(x) }>
        }""",
    )
    assert checked.report.rewrites == 1


def test_declines_two_outputs(declines):
    declines(
        MergeCommonSubexpressions(),
        "g (float[B] x) => (float[B] y, float[B] z) { y = Relu(x)  z = Relu(x) }",
        reason="both outputs",
    )


def test_declines_other_attributes(declines):
    declines(
        MergeCommonSubexpressions(),
        """g (float[B, 4] x) => (float[B, 4] y) {
            a = Softmax <axis = 0> (x)  b = Softmax <axis = 1> (x)  y = Add(a, b) }""",
    )


def test_declines_inputs_in_another_order(declines):
    declines(
        MergeCommonSubexpressions(),
        "g (float[B] x, float[B] z) => (float[B] y) { a = Sub(x, z)  b = Sub(z, x)  y = Mul(a, b) }",
    )


def test_declines_operators_that_draw_numbers(declines):
    declines(
        MergeCommonSubexpressions(),
        """g (float[B] x) => (float[B] y) {
            a = RandomUniformLike(x)  b = RandomUniformLike(x)  c = Bernoulli(x)  d = Bernoulli(x)
            p = Add(a, b)  q = Add(c, d)  y = Add(p, q) }""",
    )


def test_declines_other_domains(declines):
    declines(
        MergeCommonSubexpressions(),
        "g (float[B] x) => (float[B] y) { a = local.Draw(x)  b = local.Draw(x)  y = Add(a, b) }",
    )


def test_declines_bodies_and_what_lies_in_two_of_them(declines):
    declines(
        MergeCommonSubexpressions(),
        """g (bool c, float[B] x) => (float[B] y) {
            y = If (c) <then_branch = t () => (float[B] p) { a = Relu(x)  p = Neg(a) },
                        else_branch = e () => (float[B] q) { b = Relu(x)  q = Exp(b) }>
        }""",
    )


def test_declines_a_twin_that_leaves_out_an_output(declines, weight):
    declines(
        MergeCommonSubexpressions(),
        """g (float[S, B, 2] x) => (float[1, B, 3] y) {
            a, , c = LSTM <hidden_size = 3> (x, w, r)  d, e, f = LSTM <hidden_size = 3> (x, w, r)  y = Add(c, e) }""",
        w=weight((1, 12, 2)),
        r=weight((1, 12, 3)),
    )
