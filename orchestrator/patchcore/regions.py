"""The connected parts of an anomaly map at or above a threshold, in pixels and square millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from orchestrator.domain.arrays import FloatArray, ImageArray, MaskArray
from orchestrator.errors import InvalidInput

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Region:
    """One suspicious area of a crop.

    bbox: (x, y, w, h) px. area_px: of the outline through pixel centres, so one pixel has 0. score: the
    anomaly map's maximum inside. contour: (x, y) corners of the outline, px.
    """

    bbox: tuple[int, int, int, int]
    area_px: float
    area_mm2: float
    score: float
    contour: list[tuple[int, int]]


def find_regions(
    anomaly: FloatArray, mask: MaskArray, threshold: float, *, mm_per_px: float, area_mm2_thr: float
) -> list[Region]:
    """Outline what reaches the threshold inside the mask, largest first.

    anomaly: (H, W) float32. mask: (H, W) bool. Outer contours only; areas below area_mm2_thr are dropped.

    Raises InvalidInput where a square pixel has no finite positive area.
    """
    mm2_per_px = mm_per_px * mm_per_px
    if not (mm_per_px > 0 and 0 < mm2_per_px < math.inf):
        raise InvalidInput(
            f"mm_per_px: {mm_per_px!r} is out of range; give the millimetres that one pixel spans"
        )
    # Compared as float32, like the map; a threshold beyond that type must not overflow.
    level = np.float32(min(max(threshold, -_FLOAT32_MAX), _FLOAT32_MAX))
    binary = ((anomaly >= level) & mask).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        area_px = float(cv2.contourArea(contour))
        if area_px < area_mm2_thr / mm2_per_px:
            continue
        x, y, w, h = (int(v) for v in cv2.boundingRect(contour))
        window = (slice(y, y + h), slice(x, x + w))
        filled: ImageArray = np.zeros((h, w), dtype=np.uint8)
        cv2.drawContours(filled, [contour], -1, 1, thickness=cv2.FILLED, offset=(-x, -y))
        score = float(anomaly[window][filled.astype(np.bool_) & mask[window]].max())
        outline = [(int(px), int(py)) for px, py in contour.reshape(-1, 2)]
        found.append(Region((x, y, w, h), area_px, area_px * mm2_per_px, score, outline))
    return sorted(found, key=lambda region: (-region.area_px, region.bbox[1], region.bbox[0]))
