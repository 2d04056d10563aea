"""Finds the nodes whose precision an architecture lacks, before a builder is asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ingot.backends.contract import No
from ingot.backends.tensorrt.flavours import LACKING, PRECISIONS, Flavour
from ingot.ir.checks import subgraphs

PRECISION_OF: Mapping[ir.DataType, str] = {
    ir.DataType.FLOAT: "f32",
    ir.DataType.FLOAT16: "f16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
    ir.DataType.FLOAT4E2M1: "fp4",
}
"""What a tensor's dtype asks of the hardware; integers that count or index ask for nothing."""

_PRODUCTS = ("MatMul", "Gemm", "Einsum")


def lacking(model: ir.Model, flavour: Flavour, archs: Sequence[str]) -> list[tuple[ir.Node, No]]:
    """The nodes that one of `archs` has not the precision for, each with what that architecture has."""
    return [(node, No(reason)) for node in _nodes(model.graph) for reason in _reasons(node, flavour, archs)]


def _reasons(node: ir.Node, flavour: Flavour, archs: Sequence[str]) -> Iterator[str]:
    asked = dict.fromkeys(
        PRECISION_OF[value.dtype]
        for value in [*node.inputs, *node.outputs]
        if value is not None and value.dtype is not None and value.dtype in PRECISION_OF
    )
    for precision in asked:
        without = [arch for arch in archs if precision not in PRECISIONS[arch]]
        if without:
            has = "; ".join(f"{arch} has {', '.join(PRECISIONS[arch])}" for arch in without)
            yield f"{node.op_type} in {precision}, which {' and '.join(without)} lacks ({has})"
    if node.op_type in _PRODUCTS and node.domain == "" and node.outputs[0].dtype == ir.DataType.FLOAT:
        for arch in archs:
            instead = LACKING.get((flavour.name, arch, "f32 matrix product"))
            if instead is not None:
                yield f"{node.op_type} in f32, which {flavour.name} has not on {arch} (it has {instead})"


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)
