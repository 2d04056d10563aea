"""Tracing: torch.export's silent traps are errors or notes, names are the model's, failures name the user's line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ingot
from ingot.errors import CompileError, ExportError, UnsupportedOperatorError, UsageError
from ingot.frontend.export import Exported, export
from ingot.frontend.source import Source
from ingot.ir.provenance import source_line
from ingot.signature import Dim, Domain


class Of(torch.nn.Module):
    """A module from a function of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def trace(function: Callable[..., Any], *args: torch.Tensor, **more: Any) -> Exported:
    module = function if isinstance(function, torch.nn.Module) else Of(function)
    return export(Source("model", module.eval(), args), **more)


def test_the_batch_varies_without_being_asked_and_from_an_example_of_one() -> None:
    found = trace(lambda x: x * 2, torch.ones(1, 5))
    assert [str(dim) for dim in found.signature.dims] == ["batch:1.."]
    assert found.signature.inputs[0].shape == ("batch", 5)
    assert found.signature.outputs[0].shape == ("batch", 5)


def test_names_are_the_models_own() -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(4, 3)

        def forward(self, batch: dict[str, torch.Tensor], scale: float = 2.0) -> dict[str, Any]:
            y = self.inner(batch["pixels"])
            return {"logits": y * scale, "parts": (y + 1, [y - 1])}

    found = export(Source("model", Named().eval(), kwargs={"batch": {"pixels": torch.ones(2, 4)}}))
    assert [tensor.name for tensor in found.signature.inputs] == ["batch.pixels"]
    assert [tensor.name for tensor in found.signature.outputs] == ["logits", "parts.0", "parts.1.0"]
    assert [value.name for value in found.model.graph.outputs] == ["logits", "parts.0", "parts.1.0"]
    assert {"inner.weight", "inner.bias"} <= set(found.model.graph.initializers)


def test_names_of_inputs_outputs_and_weights_that_torch_gave_to_something_else() -> None:
    class Colliding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mul = torch.nn.Parameter(torch.ones(3) * 5)

        def forward(self, mul: torch.Tensor) -> dict[str, torch.Tensor]:
            add = mul + 1
            return {"add": add * 2, "mean": add.mean(), "mul": add * self.mul}

    with ingot.compile(Colliding(), torch.ones(2, 3)) as engine:
        assert [tensor.name for tensor in engine.inputs] == ["mul"]
        assert [tensor.name for tensor in engine.outputs] == ["add", "mean", "mul_output"]
        result = engine(mul=torch.ones(2, 3))
        assert result["mul"].tolist() == [[10.0] * 3] * 2
        assert result["mean"] == 2.0


def test_dims_are_named_and_bounded_by_the_user() -> None:
    shapes = {"x": {0: torch.export.Dim("rows", min=2, max=64), 1: "width"}}
    found = trace(lambda x: torch.cat([x, x], 1), torch.ones(3, 5), dynamic_shapes=shapes)
    assert found.signature.dims == (Dim("rows", 2, 64), Dim("width"))
    assert found.signature.outputs[0].shape == ("rows", "2*width")


def test_an_axis_that_the_model_fixes_is_an_error_where_the_user_named_it() -> None:
    with pytest.raises(ExportError, match="axis 1 of x is declared as 'width', but the model fixes it at 6"):
        trace(lambda x: x + torch.ones(6), torch.ones(2, 6), dynamic_shapes={"x": {1: "width"}})


def test_a_batch_that_the_model_fixes_is_a_note_where_nobody_asked() -> None:
    found = trace(lambda x: x + torch.ones(3, 1), torch.ones(3, 5))
    assert found.signature.dims == ()
    assert any("axis 0 of x is fixed at 3" in note for note in found.notes)


def test_examples_that_do_not_fit_the_dims_are_an_error() -> None:
    with pytest.raises(UsageError, match="disagree about 'n'"):
        trace(Two(), torch.ones(3), torch.ones(5), dynamic_shapes={"a": {0: "n"}, "b": {0: "n + 1"}})


class Attending(torch.nn.Module):
    """x [B, S, D] attending to itself without heads, under a mask of as many axes."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, mask)


@pytest.mark.parametrize("mask", [(2, 5, 5), (2, 1, 5), (2, 5, 1), (5, 5), (1, 1)])
def test_attention_without_heads_under_every_mask(mask: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 8, generator=generator)
    with ingot.compile(
        Attending(), (x, torch.randn(mask, generator=generator)), dynamic_shapes={"x": {}, "mask": {}}
    ) as engine:
        assert engine.report["verification"] == "full"


def test_outputs_whose_names_would_be_the_same() -> None:
    class Colliding(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x + 1, "x_output": x + 2}

    with ingot.compile(Colliding(), torch.zeros(2)) as engine:
        result = engine(torch.zeros(2))
        assert [result["x"].tolist(), result["x_output"].tolist()] == [[1.0, 1.0], [2.0, 2.0]]


def test_a_result_without_tensors_is_refused() -> None:
    with pytest.raises(ExportError, match="gives no tensor"):
        trace(lambda x: 3, torch.ones(2))


def test_a_failed_translation_names_the_line() -> None:
    class FiveAxes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    with pytest.raises(ExportError) as caught:
        trace(FiveAxes(), torch.ones(1, 2, 3, 4, 5), dynamic_shapes={})
    assert "could not be translated" in caught.value.what
    assert caught.value.where is not None
    assert "scaled_dot_product_attention(x, x, x)" in caught.value.where


class Two(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b[1:]


def test_dims_that_depend_on_each_other() -> None:
    found = trace(Two(), torch.ones(3), torch.ones(4), dynamic_shapes={"a": {0: "n"}, "b": {0: "n + 1"}})
    assert [tensor.shape for tensor in found.signature.inputs] == [("n",), ("n + 1",)]


def test_a_mutated_buffer_is_refused() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return x * self.seen

    with pytest.raises(ExportError, match="changes the buffer seen") as caught:
        trace(Counting(), torch.ones(2))
    assert "return the new value as an output" in str(caught.value)


def test_an_input_that_is_written_into_is_a_note() -> None:
    found = trace(lambda x: x.add_(1), torch.ones(2, 3))
    assert any("writes into its input 'x'" in note for note in found.notes)


def test_an_unused_input_stays_an_input_and_is_a_note() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
            return x + 1

    found = trace(Half(), torch.ones(2, 3), torch.ones(2, 3))
    assert [value.name for value in found.model.graph.inputs] == ["x", "unused"]
    assert any("does not use its input 'unused'" in note for note in found.notes)


def test_an_input_that_indexes_a_table_is_bounded_by_its_rows() -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(50, 4)

        def forward(self, ids: torch.Tensor) -> Any:
            return self.words(ids)

    found = trace(Table(), torch.zeros(2, 3, dtype=torch.int64))
    assert found.signature.inputs[0].domain == Domain(0, 49)


def test_nodes_know_the_users_line() -> None:
    found = trace(lambda x: torch.tanh(x) + 1, torch.ones(2))
    (node,) = (node for node in found.model.graph if node.op_type == "Tanh")
    assert source_line(node).startswith("test_export.py:")


def test_training_mode_is_left_as_it_was_by_eval_tracing() -> None:
    found = trace(torch.nn.Dropout(0.5), torch.ones(2, 3))
    assert all(node.op_type != "Dropout" for node in found.model.graph)


def decide(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:  # the user's line
        return x + 1
    return x - 1


def cut(x: torch.Tensor) -> torch.Tensor:
    return x[: int(x.sum().item())]


def no_such_size(x: torch.Tensor) -> torch.Tensor:
    return x.view(7, 11)


def by_numpy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(x.numpy() * 2)


@pytest.mark.parametrize(
    ("function", "said", "line", "fix"),
    [
        (decide, "decides in Python by the values of a tensor", "if x.sum() > 0", "torch.where"),
        (cut, "uses the values of a tensor as a size", "x.sum().item()", "mask instead of cutting"),
        (no_such_size, "own forward raises RuntimeError", "x.view(7, 11)", "must work before"),
        (by_numpy, "torch.export cannot trace", "x.numpy()", "keep the computation in torch"),
    ],
)
def test_a_failure_names_the_users_line_and_what_to_paste(
    function: Callable[..., Any], said: str, line: str, fix: str
) -> None:
    with pytest.raises(ExportError) as caught:
        trace(function, torch.ones(2, 3))
    assert said in caught.value.what
    assert caught.value.where is not None
    assert "test_export.py" in caught.value.where
    assert line in caught.value.where
    assert caught.value.fix is not None
    assert fix in caught.value.fix


def test_all_unsupported_operators_are_named_at_once_with_their_lines() -> None:
    def two(x: torch.Tensor) -> torch.Tensor:
        values = torch.linalg.eigvalsh(x @ x.T)
        return torch.linalg.svdvals(x) + values

    with pytest.raises(UnsupportedOperatorError) as caught:
        trace(two, torch.ones(3, 3), dynamic_shapes={})
    assert "2 operators have no translation" in caught.value.what
    assert "eigh" in caught.value.what
    assert "svd" in caught.value.what
    assert caught.value.what.count("test_export.py") == 2


def test_a_user_translates_an_operator_of_their_own() -> None:
    with torch.library._scoped_library("ingot_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        torch.library.register_fake("ingot_test::twice", lambda x: torch.empty_like(x), lib=library)

        def call(x: torch.Tensor) -> Any:
            return torch.ops.ingot_test.twice(x)

        with pytest.raises(UnsupportedOperatorError, match=r"ingot_test\.twice"):
            trace(call, torch.ones(2, 3))
        from onnxscript import opset23 as op

        def translate(x: Any) -> Any:
            return op.Add(x, x)

        found = trace(call, torch.ones(2, 3), translations={torch.ops.ingot_test.twice.default: translate})
        assert any(node.op_type == "Add" for node in found.model.graph)


def test_a_model_without_tensors_is_refused() -> None:
    class Constant(torch.nn.Module):
        def forward(self, scale: float = 1.0) -> torch.Tensor:
            return torch.ones(2) * scale

    with pytest.raises(CompileError, match="called without a tensor"):
        export(Source("model", Constant()))


class LearnedBias(torch.nn.Module):
    """Attention whose mask is computed from a parameter: with gradients it runs another kernel, of another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(8, 8)
        self.bias = torch.nn.Parameter(torch.randn(1, 2, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).unflatten(-1, (2, -1)).transpose(1, 2)
        y = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias + x.mean())
        return y.transpose(1, 2).contiguous().view(x.shape[0], 6, -1)


def test_attention_under_a_learned_bias_is_traced_as_it_runs() -> None:
    found = trace(LearnedBias(), torch.randn(3, 6, 8))
    assert found.signature.outputs[0].shape == ("batch", 6, 8)
