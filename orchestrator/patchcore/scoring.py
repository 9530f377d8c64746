"""From patch distances to the anomaly map of a crop, its image score and its heat map."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import ndimage

from orchestrator.domain.arrays import FloatArray, ImageArray, MaskArray
from orchestrator.domain.frame import Frame
from orchestrator.errors import InvalidInput

# Below this span a map is constant up to the rounding of its interpolation; stretching it would show noise.
_FLAT = 1e-6


def anomaly_map(distances: FloatArray, valid: MaskArray, box: Frame, *, sigma: float) -> FloatArray:
    """Draw patch distances in the crop's own frame: (H, W) float32, in the distances' unit.

    distances: (R, C). valid: (R, C) bool; every other patch (padding, outside the ROI) takes the value of its
    nearest valid one, so that none bleeds in. Bilinear between token centres, through the box; beyond
    the outermost centres the edge value holds. sigma: of the Gaussian blur after it, crop px, kernel
    round(3 sigma) * 2 + 1; 0 is none.

    Raises InvalidInput where no patch is valid or sigma is not a finite number >= 0.
    """
    if not valid.any():
        raise InvalidInput("anomaly map: no patch is valid; the mask must touch the crop")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise InvalidInput(f"blur sigma: {sigma!r} is out of range; give a finite number of pixels >= 0")
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled = distances[tuple(nearest)].astype(np.float32)
    ys, xs = box.crop_to_grid((distances.shape[0], distances.shape[1]))
    rows = _interpolation(ys, distances.shape[0])
    columns = _interpolation(xs, distances.shape[1])
    drawn: FloatArray = (rows @ filled) @ columns.T
    kernel = round(3 * sigma) * 2 + 1
    if kernel > 1:
        drawn = np.asarray(cv2.GaussianBlur(drawn, (kernel, kernel), sigma), dtype=np.float32)
    return drawn


def image_score(anomaly: FloatArray, mask: MaskArray, percentile: float) -> float:
    """Give a percentile of the anomaly map inside the mask.

    anomaly: (H, W) float32. mask: (H, W) bool; where it is empty the score is 0.0. percentile: 0 to 100, with
    NumPy's linear interpolation.
    """
    inside = _inside(anomaly, mask)
    return float(np.percentile(inside, percentile)) if inside.size else 0.0


def heat_map(anomaly: FloatArray, mask: MaskArray) -> ImageArray:
    """Stretch the in-mask values between their 1st and 99th percentile to 0..255; 0 outside the mask.

    anomaly: (H, W) float32. mask: (H, W) bool. Returns (H, W) uint8, relative to this one crop. Where the two
    percentiles are equal, 255 marks what lies above them; a constant map is all zeros.
    """
    inside = _inside(anomaly, mask)
    if inside.size == 0:
        return np.zeros(anomaly.shape, dtype=np.uint8)
    low, high = (float(v) for v in np.percentile(inside, [1, 99]))
    if high - low <= _FLAT * max(1.0, abs(high)):
        return np.where(mask & (anomaly > high + _FLAT * max(1.0, abs(high))), 255, 0).astype(np.uint8)
    gain = 255 / (high - low)
    # One pass: scale, shift, round and clip to uint8.
    stretched = cv2.addWeighted(anomaly, gain, anomaly, 0, -low * gain, dtype=cv2.CV_8U)
    return np.asarray(stretched * mask, dtype=np.uint8)


def _inside(anomaly: FloatArray, mask: MaskArray) -> FloatArray:
    return anomaly.ravel() if mask.all() else anomaly[mask]


def _interpolation(places: FloatArray, cells: int) -> FloatArray:
    """Give the (P, cells) float32 matrix that reads P places, in cell coordinates, off a row of cells."""
    held = np.clip(places, 0, cells - 1)
    low = np.minimum(held.astype(np.int64), max(cells - 2, 0))
    share = held - low
    matrix = np.zeros((len(places), cells), dtype=np.float32)
    each = np.arange(len(places))
    matrix[each, low] = 1 - share
    matrix[each, np.minimum(low + 1, cells - 1)] += share
    return matrix
