"""Makes data/format-1.ingot, the committed engine file that every later version must open: y = x @ weight.

The file is not made again when the writer changes: a new format gets a file and a script of its own.
    python tests/file/make_format_1.py      in an environment where `ingot` is installed
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx

from ingot.file.header import Header, Target
from ingot.file.write import FIRST_MEMBER_OFFSET, Draft, Part
from ingot.signature import Dim, Signature, Tensor

DATA = Path(__file__).parent / "data"

LOCATION = "./" * 150

WEIGHT = (np.arange(32, dtype=np.float32) - 16).reshape(4, 8) / 8
"""Multiples of 1/8: every product and sum below is exact, in any order."""

X = np.arange(12, dtype=np.float32).reshape(3, 4) / 4 - 1

SIGNATURE = Signature(
    inputs=(Tensor("x", "float32", ("batch", 4)),),
    outputs=(Tensor("y", "float32", ("batch", 8)),),
    dims=(Dim("batch"),),
    parameters={"x": {"tensor": 0}},
    result={"tensor": 0},
)

HEADER = Header(
    name="format-1",
    signature=SIGNATURE,
    targets=(Target("cpu", {"graph": "cpu/graph.onnx", "weights": "weights.bin"}, {"onnxruntime": ">=1.31"}),),
    verification="full",
    numerics="fast",
    versions={"ingot": "0.1.0"},
    selftest="selftest.npz",
)


def graph() -> bytes:
    """An ONNX model whose one weight lies in the engine file."""
    weight = onnx.TensorProto(
        name="weight", dims=WEIGHT.shape, data_type=onnx.TensorProto.FLOAT, data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", LOCATION), ("offset", FIRST_MEMBER_OFFSET), ("length", WEIGHT.nbytes)):
        weight.external_data.add(key=key, value=str(value))
    x, y = (
        onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, tensor.shape)
        for tensor in (*SIGNATURE.inputs, *SIGNATURE.outputs)
    )
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    made = onnx.helper.make_graph([node], "format-1", [x], [y], [weight])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def vectors() -> bytes:
    """The self-test: one case."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in (("0/in/x", X), ("0/out/y", X @ WEIGHT)):
            content = io.BytesIO()
            np.lib.format.write_array(content, array, (1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return stream.getvalue()


def make(path: Path) -> None:
    parts = [
        Part.of("weights.bin", WEIGHT.tobytes()),
        Part.of("cpu/graph.onnx", graph()),
        Part.of("selftest.npz", vectors()),
    ]
    with Draft(path.parent, path.name, HEADER, parts) as draft:
        draft.finish({"seed": 1})
        draft.publish(path)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    make(DATA / "format-1.ingot")
