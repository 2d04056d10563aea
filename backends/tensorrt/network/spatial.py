"""What TensorRT's layers over space compute: convolution, pooling, resize, padding, sampling, suppression of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ingot.backends.tensorrt.network.values import (
    Compute,
    NotEvaluatedError,
    Values,
    given,
    integers,
    needed,
    optional_weights,
    torch_dtype,
    wide,
)

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Window:
    """The window, stride and padding that a convolution or a pooling shares."""

    def __init__(self, layer: Any, sizes: Sequence[int], dilation: Sequence[int]) -> None:
        self.sizes, self.dilation = [int(size) for size in sizes], [int(step) for step in dilation]
        self.stride = [int(step) for step in layer.stride_nd]
        self.pre, self.post = [int(pad) for pad in layer.pre_padding], [int(pad) for pad in layer.post_padding]
        self.mode = str(layer.padding_mode.name)
        self.extents = [(size - 1) * step + 1 for size, step in zip(self.sizes, self.dilation, strict=True)]

    def pads(self, spatial: Sequence[int]) -> list[tuple[int, int, int]]:
        """For each axis: padding in front, padding behind, and what the last window needs beyond that."""
        found = []
        for axis, size in enumerate(spatial):
            extent, stride, pre, post = self.extents[axis], self.stride[axis], self.pre[axis], self.post[axis]
            if self.mode.startswith("SAME"):
                total = max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
                pre = total // 2 if self.mode == "SAME_UPPER" else total - total // 2
                post = total - pre
            over = 0
            if self.mode == "EXPLICIT_ROUND_UP":
                over = -(size + pre + post - extent) % stride
            found.append((pre, post, over))
        return found


def _padded(x: torch.Tensor, pads: Sequence[tuple[int, int]], value: float) -> torch.Tensor:
    flat = [pad for pair in reversed(pads) for pad in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _kernel(layer: Any, shape: Sequence[int]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    dynamic = layer.num_inputs > 1 and layer.get_input(1) is not None
    kernel = None if dynamic else optional_weights(layer.kernel, shape)
    bias = None if layer.num_inputs > 2 else optional_weights(layer.bias)
    return kernel, bias


def convolution(layer: Any) -> Compute:
    groups, maps = int(layer.num_groups), int(layer.num_output_maps)
    window = _Window(layer, layer.kernel_size_nd, layer.dilation_nd)
    channels = int(layer.get_input(0).shape[1])
    own, own_bias = _kernel(layer, (maps, channels // groups, *window.sizes))

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        kernel = own if own is not None else needed(values, 1)
        bias = own_bias if own_bias is not None else given(values, 2)
        pads = [(pre, post + over) for pre, post, over in window.pads(x.shape[2:])]
        y = _CONV[len(window.sizes)](
            _padded(wide(x), pads, 0.0),
            wide(kernel),
            None if bias is None else wide(bias),
            window.stride,
            0,
            window.dilation,
            groups,
        )
        return [y.to(x.dtype)]

    return run


def deconvolution(layer: Any) -> Compute:
    groups, maps = int(layer.num_groups), int(layer.num_output_maps)
    window = _Window(layer, layer.kernel_size_nd, layer.dilation_nd)
    channels = int(layer.get_input(0).shape[1])
    own, own_bias = _kernel(layer, (channels, maps // groups, *window.sizes))

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        kernel = own if own is not None else needed(values, 1)
        bias = own_bias if own_bias is not None else given(values, 2)
        y = _DECONV[len(window.sizes)](
            wide(x),
            wide(kernel),
            None if bias is None else wide(bias),
            window.stride,
            0,
            0,
            groups,
            window.dilation,
        )
        cut = []
        for axis, size in enumerate(x.shape[2:]):
            pre, post = window.pre[axis], window.post[axis]
            if window.mode.startswith("SAME"):
                total = y.shape[2 + axis] - size * window.stride[axis]
                pre = total // 2 if window.mode == "SAME_UPPER" else total - total // 2
                post = total - pre
            cut.append((-pre, -post))
        if bias is not None and any(pad > 0 for pair in cut for pad in pair):
            raise NotEvaluatedError("a deconvolution with a bias beyond its own output")
        return [_padded(y, cut, 0.0).to(x.dtype)]

    return run


def pooling(layer: Any) -> Compute:
    window = _Window(layer, layer.window_size_nd, [1] * len(layer.window_size_nd))
    kind, excludes, blend = layer.type.name, bool(layer.average_count_excludes_padding), float(layer.blend_factor)

    def sums(x: torch.Tensor) -> torch.Tensor:
        for axis, (size, stride) in enumerate(zip(window.sizes, window.stride, strict=True)):
            x = x.unfold(2 + axis, size, stride)
        return x.sum(list(range(-len(window.sizes), 0)))

    def largest(x: torch.Tensor) -> torch.Tensor:
        for axis, (size, stride) in enumerate(zip(window.sizes, window.stride, strict=True)):
            x = x.unfold(2 + axis, size, stride).amax(-1)
        return x

    def run(values: Values) -> list[torch.Tensor]:
        x = needed(values, 0)
        pads = window.pads(x.shape[2:])
        whole = [(pre, post + over) for pre, post, over in pads]
        y = wide(x)
        ones = torch.ones_like(y[:1, :1])
        if not excludes:
            ones = _padded(ones, [(pre, post) for pre, post, _ in pads], 1.0)
            counts = sums(_padded(ones, [(0, over) for _, _, over in pads], 0.0))
        else:
            counts = sums(_padded(ones, whole, 0.0))
        average = sums(_padded(y, whole, 0.0)) / counts
        if kind == "AVERAGE":
            return [average.to(x.dtype)]
        lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        peak = largest(_padded(y, whole, lowest))
        return [(peak if kind == "MAX" else (1 - blend) * peak + blend * average).to(x.dtype)]

    return run


def padding(layer: Any) -> Compute:
    pads = list(zip(map(int, layer.pre_padding_nd), map(int, layer.post_padding_nd), strict=True))
    return lambda values: [_padded(needed(values, 0), pads, 0.0)]


def resize(layer: Any) -> Compute:
    """Coordinates by the ratio of lengths, as TensorRT documents them, also where scales were given."""
    mode, rounding = layer.resize_mode.name, layer.nearest_rounding.name
    transform, selector = layer.coordinate_transformation.name, layer.selector_for_single_pixel.name
    excluding, cubic = bool(layer.exclude_outside), float(layer.cubic_coeff)
    dynamic = layer.num_inputs > 1 and layer.get_input(1) is not None
    scales = [] if dynamic else [float(factor) for factor in layer.scales]
    fixed = None if dynamic or scales else [int(size) for size in layer.shape]

    def run(values: Values) -> list[torch.Tensor]:
        x, asked = needed(values, 0), given(values, 1)
        sizes = integers(asked) if asked is not None else fixed
        if sizes is None:
            sizes = [math.floor(size * factor) for size, factor in zip(x.shape, scales, strict=True)]
        y = wide(x)
        for axis, (size, wanted) in enumerate(zip(x.shape, sizes, strict=True)):
            if size == wanted:
                continue
            at = _origins(size, wanted, transform, selector)
            if mode == "NEAREST":
                y = y.index_select(axis, _rounded(at, rounding).clamp(0, size - 1))
            else:
                y = _interpolated(y, axis, at, cubic if mode == "CUBIC" else None, excluding)
        return [y.to(x.dtype)]

    return run


def _origins(size: int, wanted: int, transform: str, selector: str) -> torch.Tensor:
    at = torch.arange(wanted, dtype=torch.float64)
    if wanted == 1 and selector == "UPPER":
        return torch.zeros_like(at)
    if transform == "ALIGN_CORNERS":
        return at * ((size - 1) / (wanted - 1)) if wanted > 1 else torch.zeros_like(at)
    if transform == "ASYMMETRIC":
        return at * (size / wanted)
    return (at + 0.5) * (size / wanted) - 0.5


def _rounded(at: torch.Tensor, rounding: str) -> torch.Tensor:
    if rounding == "HALF_UP":
        return torch.floor(at + 0.5).long()
    if rounding == "HALF_DOWN":
        return torch.ceil(at - 0.5).long()
    return (torch.floor(at) if rounding == "FLOOR" else torch.ceil(at)).long()


def _interpolated(x: torch.Tensor, axis: int, at: torch.Tensor, cubic: float | None, excluding: bool) -> torch.Tensor:
    size, whole = x.shape[axis], torch.floor(at)
    part = at - whole
    if cubic is None:
        taps = {0: 1 - part, 1: part}
    else:
        taps = {offset: _cubic((part - offset).abs(), cubic) for offset in (-1, 0, 1, 2)}
    weights = torch.zeros(len(at), size, dtype=torch.float64)
    for offset, weight in taps.items():
        place = (whole + offset).long()
        if excluding:
            weight = weight.masked_fill((place < 0) | (place >= size), 0)
        weights.scatter_add_(1, place.clamp(0, size - 1).unsqueeze(1), weight.unsqueeze(1))
    if excluding:
        weights = weights / weights.sum(1, keepdim=True)
    made: torch.Tensor = torch.tensordot(x.movedim(axis, -1), weights.to(x.dtype), dims=([-1], [1]))
    return made.movedim(-1, axis)


def _cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def grid_sample(layer: Any) -> Compute:
    mode = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}[layer.interpolation_mode.name]
    borders = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}[layer.sample_mode.name]
    corners = bool(layer.align_corners)

    def run(values: Values) -> list[torch.Tensor]:
        x, grid = needed(values, 0), needed(values, 1)
        return [F.grid_sample(wide(x), wide(grid), mode, borders, corners).to(x.dtype)]

    return run


def non_max_suppression(layer: Any) -> Compute:
    centred = layer.bounding_box_format.name == "CENTER_SIZES"
    dtype, limit = torch_dtype(layer.indices_type), int(layer.topk_box_limit)

    def run(values: Values) -> list[torch.Tensor]:
        boxes, scores = wide(needed(values, 0)), wide(needed(values, 1))
        most = integers(needed(values, 2))[0]
        overlap, least = (0.0 if value is None else float(value) for value in (given(values, 3), given(values, 4)))
        rows = []
        for batch in range(boxes.shape[0]):
            found = []
            for kind in range(scores.shape[2]):
                own = boxes[batch] if boxes.ndim == 3 else boxes[batch, :, kind]
                corners = torch.cat([own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2], 1) if centred else own
                kept = _suppressed(corners, scores[batch, :, kind], (most, limit), overlap, least)
                found += [(float(scores[batch, box, kind]), batch, kind, box) for box in kept]
            rows += [row[1:] for row in sorted(found, key=lambda row: -row[0])]
        selected = torch.tensor(rows, dtype=dtype).reshape(-1, 3)
        return [selected, torch.tensor(len(rows), dtype=torch.int32)]

    return run


def _suppressed(
    boxes: torch.Tensor, scores: torch.Tensor, most: tuple[int, int], overlap: float, least: float
) -> list[int]:
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    areas = (high - low).prod(1)
    kept: list[int] = []
    for box in torch.argsort(scores, descending=True, stable=True)[: most[1]].tolist():
        if len(kept) == most[0] or scores[box] <= least:
            break
        shared = (torch.minimum(high[kept], high[box]) - torch.maximum(low[kept], low[box])).clamp(min=0).prod(1)
        if not bool((shared / (areas[kept] + areas[box] - shared) > overlap).any()):
            kept.append(box)
    return kept
