"""From a shape to pixels, and from pixels to the patches that see them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import ndimage

from orchestrator.domain.arrays import ImageArray, MaskArray, SpanArray
from orchestrator.domain.frame import Frame
from orchestrator.domain.shapes import Annulus, Circle, Rect, Shape
from orchestrator.errors import InvalidInput

# Where a patch edge falls on a pixel edge, rounding must not make them overlap.
_EDGE_PX = 1e-6


def rasterise(shape: Shape | None, size: tuple[int, int]) -> MaskArray:
    """Draw a shape on a crop of size (H, W): (H, W) bool, true inside; at least one pixel is true.

    Rectangles are cut to whole pixels and clipped; centres and radii are rounded. None is the whole crop.
    """
    match shape:
        case None:
            return np.ones(size, dtype=np.bool_)
        case Rect():
            return _rectangle(shape, size)
        case Circle(cx, cy, r):
            return _ring(Annulus(cx, cy, r, 0.0), size)
        case Annulus():
            return _ring(shape, size)


def patch_mask(mask: MaskArray, box: Frame, grid: tuple[int, int]) -> MaskArray:
    """Tell which patches to compare: (R, C) bool, on the content and touching the mask; at least one is true.

    mask: (H, W) bool of the crop. A patch that touches the mask in one pixel counts, since the anomaly map
    draws on it there.

    Raises InvalidInput where the mask is empty.
    """
    if not mask.any():
        raise InvalidInput("shape: covers no pixel of the crop; draw it larger")
    rows, columns = (_whole_pixels(s, side) for s, side in zip(box.patch_spans(grid), box.crop, strict=True))
    strips = np.stack([mask[low:high].any(axis=0) for low, high in rows])
    touched = np.stack([strips[:, low:high].any(axis=1) for low, high in columns], axis=1)
    content = box.content_patches(grid)
    chosen: MaskArray = touched & content
    if not chosen.any():
        # The mask lies in the sliver of a patch whose centre is padding: its nearest content patch stands in.
        away = ndimage.distance_transform_edt(~touched)
        chosen = content & (away == away[content].min())
    return chosen


def _whole_pixels(spans: SpanArray, side: int) -> list[tuple[int, int]]:
    lows = np.clip(np.floor(spans[:, 0] + _EDGE_PX), 0, side).astype(int)
    highs = np.clip(np.ceil(spans[:, 1] - _EDGE_PX), 0, side).astype(int)
    return [(int(low), int(high)) for low, high in zip(lows, highs, strict=True)]


def _rectangle(shape: Rect, size: tuple[int, int]) -> MaskArray:
    mask = np.zeros(size, dtype=np.bool_)
    mask[_cut(shape.y, shape.h, size[0]), _cut(shape.x, shape.w, size[1])] = True
    return mask


def _cut(start: float, length: float, limit: int) -> slice:
    low = min(max(int(start), 0), limit - 1)
    high = min(int(start) + int(length), limit)
    return slice(low, max(high, low + 1))


def _ring(shape: Annulus, size: tuple[int, int]) -> MaskArray:
    canvas: ImageArray = np.zeros(size, dtype=np.uint8)
    centre = (round(shape.cx), round(shape.cy))
    cv2.circle(canvas, centre, round(shape.r), 1, thickness=cv2.FILLED)
    if round(shape.r_inner) > 0:
        cv2.circle(canvas, centre, round(shape.r_inner), 0, thickness=cv2.FILLED)
    mask = canvas.astype(np.bool_)
    return mask if mask.any() else _thin_ring(shape, size)


def _thin_ring(shape: Annulus, size: tuple[int, int]) -> MaskArray:
    # Rounding swallowed a ring thinner than a pixel: keep what lies within half a pixel of it, or nearest.
    ys, xs = np.ogrid[: size[0], : size[1]]
    radius = np.hypot(ys - shape.cy, xs - shape.cx)
    excess = np.maximum(shape.r_inner - radius, radius - shape.r)
    ring: MaskArray = excess <= max(0.5, math.nextafter(float(excess.min()), math.inf))
    return ring
