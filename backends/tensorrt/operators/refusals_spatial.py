"""Why TensorRT does not run a convolution, a pooling, a resize or a padding as meant."""

from __future__ import annotations

import math

import onnx_ir as ir

from ingot.backends.tensorrt.operators.asked import Asked, Check, listed
from ingot.ir.dims import same_dim

MOST_RESIZED = {"nearest": 3, "linear": 3, "cubic": 2}
"""How many of the last dims TensorRT resizes, as documented of IResizeLayer; more may build, or not."""


def all_ones(name: str) -> Check:
    def check(asked: Asked) -> str | None:
        if all(step == 1 for step in asked.attribute(name, ())):
            return None
        return f"{name} other than 1; TensorRT pools neighbours alone"

    return check


def pools(asked: Asked) -> str | None:
    """ONNX leaves out a last window that begins in the padding behind, TensorRT does not."""
    if not asked.attribute("ceil_mode", 0):
        return None
    if asked.node.op_type == "LpPool":
        return "ceil_mode: TensorRT computes a window that is cut from its mean; pad to a whole number of windows"
    dims = asked.dims()
    kernel = asked.attribute("kernel_shape")
    count = len(kernel)
    stride, pads = asked.attribute("strides", [1] * count), asked.attribute("pads", [0] * 2 * count)
    if asked.text("auto_pad", "NOTSET") == "VALID":
        pads = [0] * 2 * count
    sizes = dims[2:] if dims is not None else [None] * count
    for axis, size in enumerate(sizes):
        step, front, behind = stride[axis], pads[axis], pads[count + axis]
        if size is None:
            begins = behind + step > kernel[axis]
        else:
            last = math.ceil((size + front + behind - kernel[axis]) / step) * step
            begins = last >= size + front
        if begins:
            return "ceil_mode with a last window that begins in the padding: TensorRT counts it; use other pads"
    return None


def resizes(asked: Asked) -> str | None:
    mode = asked.text("coordinate_transformation_mode", "half_pixel" if asked.version > 10 else "asymmetric")
    known = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
    if mode not in known:
        return f"coordinate_transformation_mode = {mode}; TensorRT has {listed(known)}"
    if reason := _resizes_in_front(asked):
        return reason
    place = 1 if asked.version < 11 or asked.node.op_type == "Upsample" else 2
    scales = asked.constant(place)
    by_scales = asked.has(place) and not (scales is not None and scales.size == 0)
    if asked.node.op_type == "Upsample" and asked.version < 9:
        return "of an operator set before 9: convert the model"
    if by_scales and scales is None:
        return "its scales are computed; TensorRT takes constants, or computed sizes"
    dims, axes = asked.dims(), asked.attribute("axes")
    if axes is not None and (dims is None or None in dims or by_scales) and list(axes) != list(range(len(dims or ()))):
        return "axes, of dynamic dims or with scales: give a size for every dim"
    if not by_scales or scales is None:
        return None
    for size, factor in zip(dims or [None] * len(scales), scales.tolist(), strict=False):
        exact = factor == int(factor) if size is None else (size * factor).is_integer()
        if not exact:
            return (
                f"scale {factor:g} of a dim of {size or 'any size'} gives no whole size: TensorRT takes coordinates "
                "by the ratio of the sizes, ONNX by the scale; give sizes, or a scale that divides"
            )
    return None


def odd_window(asked: Asked) -> str | None:
    size = asked.attribute("size", 1)
    return None if size % 2 and size <= 15 else f"size = {size}; TensorRT takes odd sizes up to 15"


def no_negative_pads(asked: Asked) -> str | None:
    if any(pad < 0 for pad in asked.attribute("pads", ())):
        return "negative pads; cut with Slice before it"
    return None


def pads(asked: Asked) -> str | None:
    sizes = asked.constant(1) if asked.has(1) else asked.attribute("pads")
    if asked.has(3) and asked.constant(3) is None:
        return "its axes are computed; TensorRT takes constants"
    if asked.text("mode", "constant") == "wrap" and (sizes is None or any(size < 0 for size in sizes)):
        return "mode = wrap with pads that are or may be negative: TensorRT cuts after wrapping, not before"
    return None


def spreads(asked: Asked) -> str | None:
    dims = asked.dims()
    if asked.attribute("output_shape") and (dims is None or None in dims[2:]):
        return "output_shape of dynamic dims; give pads and output_padding"
    return no_negative_pads(asked)


def static_weights(asked: Asked) -> str | None:
    if asked.constant(1) is not None:
        return None
    channels = (asked.dims(0) or [None, None])[1]
    if channels is None or None in (asked.dims(1) or [None]):
        return "computed weights or channels of unknown size"
    return None


def _resizes_in_front(asked: Asked) -> str | None:
    x, y, sizes = asked.input(0), asked.node.outputs[0], asked.constant(3)
    mode = asked.text("mode", "nearest")
    most = MOST_RESIZED.get(mode, 3)
    if x is None or x.shape is None or asked.attribute("axes") is not None:
        return None
    if sizes is not None and sizes.size == len(x.shape):
        after: list[int | ir.SymbolicDim] = [int(size) for size in sizes]
    elif y.shape is not None:
        after = list(y.shape)
    else:
        return None
    for was, becomes in list(zip(x.shape, after, strict=True))[:-most]:
        if isinstance(becomes, int) and not same_dim(was, becomes):
            return f"mode = {mode} over more than the last {most} dims; TensorRT has no more: resize some before others"
    return None
