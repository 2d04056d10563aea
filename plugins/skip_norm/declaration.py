"""What skip_norm is."""

from __future__ import annotations

from ingot.plugins.declaration import Awkward, Choice, Declaration, Real, Tensor

SKIP_NORM = Declaration(
    name="skip_norm",
    version=1,
    doc="sum = x + residual; y = norm(sum) * weight + bias over the last axis, in float32",
    inputs=(
        Tensor("x", ("B", "S", "H")),
        Tensor("residual", ("B", "S", "H")),
        Tensor("weight", ("H",)),
        Tensor("bias", ("H",), optional=True),
    ),
    outputs=(Tensor("y", ("B", "S", "H")), Tensor("sum", ("B", "S", "H"))),
    attributes=(
        Real("epsilon", 1e-6, above=0.0, doc="added to the mean square (rms) or the variance (layer)"),
        Choice("kind", "rms", ("rms", "layer"), doc="rms: divided by the root mean square; layer: the mean taken off"),
    ),
    dtypes=("float32", "float16", "bfloat16"),
    fixed={"H": 16384},
    programs=("B", "S"),
    awkward={
        "H": (
            Awkward(1, "a row of one element: its variance is zero"),
            Awkward(7, "odd: no vector of it is aligned"),
            Awkward(384, "no power of two: a third of the block is masked"),
            Awkward(768, "BERT's"),
            Awkward(1000, "no multiple of 16"),
            Awkward(4096, "a power of two: nothing is masked"),
        )
    },
)
