"""One colour scale for many anomaly maps, and the two panels that show a photograph and its map.

Knows pixels and outlines; knows nothing of pages, captions or verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from orchestrator.domain.arrays import FloatArray, ImageArray, MaskArray

TRUTH_COLOUR = (64, 224, 255)
REGION_COLOUR = (255, 255, 255)
_EMPTY = (226, 229, 234)


@dataclass(frozen=True, slots=True)
class HeatScale:
    """Maps distances to colours: low and below are transparent, high and above are the hottest colour."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Iterable[FloatArray], thresholds: Sequence[float]) -> HeatScale:
        """Choose one scale for all maps: from their typical level up, the thresholds well inside."""
        finite = [m[np.isfinite(m)] for m in maps]
        finite = [m for m in finite if m.size]
        if not finite:
            middle = float(np.median(thresholds)) if thresholds else 0.5
            return cls(0.0, 2 * middle if middle > 0 else 1.0)
        low = float(np.median([np.median(m) for m in finite]))
        # One part far off the rest must not turn all the others blank.
        high = float(np.percentile([m.max() for m in finite], 90))
        if thresholds:
            # What matters lies near the threshold: 2.5 times its height over the sound level is hot enough.
            low = min(low, thresholds[0] - 0.05 * abs(thresholds[0]))
            step = thresholds[-1] - low
            high = float(np.clip(high, low + 1.5 * step, low + 2.5 * step))
        return cls(low, high if high > low else low + max(abs(low), 1.0))

    def place(self, values: ArrayLike) -> FloatArray:
        """Give values their place on the scale, 0..1; one that is not finite lies at 0."""
        scaled = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1).astype(np.float32)


def colours(places: FloatArray) -> ImageArray:
    """Colour places 0..1 of any shape (...) as (..., 3) uint8 RGB."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)
    palette = np.ascontiguousarray(np.asarray(table, dtype=np.uint8)[:, 0, ::-1])
    # The palette's darkest blues and reds read as black on metal.
    return np.asarray(palette[np.rint(24 + places * 216).astype(np.intp)])


def opacity(places: FloatArray) -> FloatArray:
    """Give the share 0..1 by which heat covers the photograph below it."""
    return np.asarray(0.85 * places**0.8, dtype=np.float32)


def photograph_panel(image: ImageArray, mask: MaskArray | None, side: int) -> ImageArray:
    """Show a photograph, the true defect outlined where it is known: (side, side, 3) uint8 RGB."""
    content = _fit(image, side)
    if mask is not None and mask.any():
        _outline_mask(content, mask)
    return _centre(content, side)


def heat_panel(
    image: ImageArray,
    anomaly_map: FloatArray | None,
    contours: Sequence[ArrayLike],
    scale: HeatScale,
    side: int,
) -> ImageArray:
    """Show heat over a grey photograph, regions outlined: (side, side, 3) uint8 RGB.

    Without a map, the photograph is only faded.

    contours: closed outlines of (x, y) points, in the photograph's px.
    """
    content = _fit(image, side)
    grey = cv2.cvtColor(content, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    if anomaly_map is None:
        return _centre(np.asarray(0.35 * grey + 0.65 * np.array(_EMPTY)).astype(np.uint8), side)
    height, width = content.shape[:2]
    resized = cv2.resize(anomaly_map.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    places = scale.place(resized)
    cover = opacity(places)[..., None]
    painted = np.ascontiguousarray((grey * (1 - cover) + colours(places) * cover).astype(np.uint8))
    factors = np.array([width / image.shape[1], height / image.shape[0]])
    for contour in contours:
        points = np.asarray(contour, dtype=np.float64).reshape(-1, 2)
        if len(points):
            _outline(painted, (points + 0.5) * factors - 0.5, REGION_COLOUR)
    return _centre(painted, side)


def _fit(image: ImageArray, side: int) -> ImageArray:
    factor = side / max(image.shape[:2])
    width, height = (max(1, round(length * factor)) for length in (image.shape[1], image.shape[0]))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def _centre(content: ImageArray, side: int) -> ImageArray:
    panel = np.full((side, side, 3), _EMPTY, dtype=np.uint8)
    height, width = content.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    panel[top : top + height, left : left + width] = content
    return panel


def _outline_mask(content: ImageArray, mask: MaskArray) -> None:
    """Draw around the defect, four pixels off it, so that the line never covers what it shows."""
    height, width = content.shape[:2]
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
    if not covered.any():
        # INTER_AREA enlarges linearly, and may miss a mask of a few pixels; its own pixels never do.
        rows, columns = np.nonzero(mask)
        covered[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    grown = cv2.dilate(covered.astype(np.uint8), around)
    outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        _outline(content, outline.reshape(-1, 2).astype(np.float64), TRUTH_COLOUR)


def _outline(picture: ImageArray, points: FloatArray, colour: tuple[int, int, int]) -> None:
    # Whole pixels, not smoothed ones: a smoothed line of one pixel pales on bright metal.
    whole = np.rint(points).astype(np.int32).reshape(-1, 1, 2)
    for thickness, shade in ((3, (20, 24, 30)), (1, colour)):
        cv2.polylines(picture, [whole], True, shade, thickness)
