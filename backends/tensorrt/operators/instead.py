"""What to write in PyTorch in place of operators that TensorRT has no layer for."""

from __future__ import annotations

from collections.abc import Mapping

_BITS = (
    "of bools use torch.logical_and and its kin; of integers, arithmetic: x % 2**n for a mask, x // 2**n for a shift"
)
_SIZES = (
    "its result has as many elements as the data say: keep the shape with a mask (torch.where, a sum over x * mask)"
)
_RANDOM = "draw outside and pass the numbers in as an input"
_SEQUENCE = "tensors in place of lists that grow: torch.stack or torch.cat over a fixed number"

INSTEAD: Mapping[str, str] = {
    "BitShift": _BITS,
    "BitwiseAnd": _BITS,
    "BitwiseNot": _BITS,
    "BitwiseOr": _BITS,
    "BitwiseXor": _BITS,
    "Bernoulli": _RANDOM,
    "Col2Im": "torch.nn.functional.conv_transpose2d with a kernel of ones and zeros",
    "Compress": _SIZES,
    "CumProd": "torch.exp(torch.cumsum(torch.log(x), dim)) where x is positive",
    "DFT": "a product with the matrix of the transform (torch.fft.fft(torch.eye(n)), its real and imaginary part)",
    "Det": "the determinant written out, or computed outside",
    "DynamicQuantizeLinear": "a scale that is fixed before (QuantizeLinear)",
    "MaxUnpool": "torch.nn.functional.interpolate, or conv_transpose2d",
    "Multinomial": _RANDOM,
    "NonZero": _SIZES,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "RoiAlign": "torch.nn.functional.grid_sample",
    "SequenceAt": _SEQUENCE,
    "SequenceEmpty": _SEQUENCE,
    "SequenceInsert": _SEQUENCE,
    "Unique": _SIZES,
}
