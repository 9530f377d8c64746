"""Foreground patches by the first principal component of the tokens; knows no photographs.

Source: Damm et al. 2024, "AnomalyDINO", which cuts the first component of each test image at a fixed value of
unnormalised tokens. Here the component is the fit's own and stays with its bank, and the cut is Otsu's (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from orchestrator.domain.arrays import FloatArray, HalfArray, MaskArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.frame import Frame

CENTRE_SHARE = 0.6
"""Side of the box in the middle of the counted patches where the part is expected."""

# A component is settled long before this many tokens; the covariance of more only takes longer.
_COMPONENT_TOKENS = 16_384
# Below this, projections differ by the rounding of float16 tokens alone.
_NO_SPREAD = 1e-3
_FRAME = 2
_KERNEL = np.ones((3, 3), dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class FoundForeground:
    """An axis, and how well it tells the part from its background.

    share: of the counted patches that lie on the part's side. separation: of the tokens' variance along the axis, what
    lies between the two sides, 0 to 1; tokens that are spread evenly, with no gap anywhere, have 3/4.
    """

    axis: ForegroundAxis
    share: float
    separation: float


def fit_axis(tokens: Sequence[HalfArray], patches: Sequence[MaskArray]) -> FoundForeground:
    """Find the axis that tells the part from its background.

    tokens: (N, D) of each photograph, L2-normalised. patches: (R, C) bool, the ones that count, at least one a
    photograph. The part is the side that holds more of the middle of the counted patches than of their rim. Tokens
    without any spread all show the part.
    """
    counted = [t[p.reshape(-1)] for t, p in zip(tokens, patches, strict=True)]
    stride = -(-sum(len(rows) for rows in counted) // _COMPONENT_TOKENS)
    direction = _first_component(np.concatenate([rows[::stride] for rows in counted]).astype(np.float32))
    places = np.concatenate([_project(rows, direction) for rows in counted])
    if float(np.ptp(places)) <= _NO_SPREAD:
        return FoundForeground(ForegroundAxis(direction, float(places.min()) - 1), 1.0, 0.0)
    cut, separation = _otsu_cut(places)
    above = places > cut
    central = np.concatenate([_central(p)[p] for p in patches])
    if central.any() and not central.all() and above[central].mean() < above[~central].mean():
        return FoundForeground(ForegroundAxis(-direction, -cut), float((~above).mean()), separation)
    return FoundForeground(ForegroundAxis(direction, cut), float(above.mean()), separation)


def foreground_patches(tokens: HalfArray, patches: MaskArray, axis: ForegroundAxis) -> MaskArray:
    """Tell which of the counted patches show the part: (R, C) bool, all false where none does.

    tokens: (N, D), row-major over the grid. Grown by one patch and closed, so that a defect on the part's edge stays.
    """
    above = (_project(tokens, axis.direction) > axis.cut).reshape(patches.shape) & patches
    # Framed: on its very border OpenCV closes everything that it has grown to.
    framed = np.pad(above.astype(np.uint8), _FRAME)
    closed = cv2.morphologyEx(cv2.dilate(framed, _KERNEL), cv2.MORPH_CLOSE, _KERNEL)
    chosen: MaskArray = closed[_FRAME:-_FRAME, _FRAME:-_FRAME].astype(np.bool_) & patches
    return chosen


def foreground_pixels(mask: MaskArray, frame: Frame, patches: MaskArray, kept: MaskArray) -> MaskArray:
    """Tell which pixels of the mask lie nearest to a kept patch: (H, W) bool, at least one true.

    mask: (H, W) bool, at least one true. patches: (R, C) bool, the ones that count. kept: the ones of them that show
    the part.
    """
    nearest = ndimage.distance_transform_edt(~patches, return_distances=False, return_indices=True)
    filled = kept[tuple(nearest)]
    grid = (patches.shape[0], patches.shape[1])
    rows, columns = (
        np.clip(np.rint(places).astype(np.int64), 0, cells - 1)
        for places, cells in zip(frame.crop_to_grid(grid), grid, strict=True)
    )
    pixels: MaskArray = mask & filled[rows[:, None], columns[None, :]]
    # A mask thinner than a pixel's rounding may touch a kept patch and yet lie nearest to another one.
    return pixels if pixels.any() else mask


def _project(tokens: HalfArray, direction: FloatArray) -> FloatArray:
    places: FloatArray = tokens.astype(np.float32) @ direction
    return places


def _first_component(rows: FloatArray) -> FloatArray:
    centred = rows - rows.mean(axis=0)
    covariance = (centred.T @ centred).astype(np.float64)
    last = covariance.shape[0] - 1
    _, vectors = linalg.eigh(covariance, subset_by_index=(last, last))
    vector = vectors[:, 0]
    # Either sign is a solution: one of them, always.
    vector = vector * np.sign(vector[np.abs(vector).argmax()])
    direction: FloatArray = vector.astype(np.float32)
    return direction


def _otsu_cut(places: FloatArray) -> tuple[float, float]:
    """Split where the variance between the two sides is largest, exactly, without a histogram.

    Returns the cut, and that variance's share of the whole.
    """
    rising: NDArray[np.float64] = np.sort(places).astype(np.float64)
    below = np.cumsum(rising)
    counts = np.arange(1, len(rising))
    lower, upper = below[:-1] / counts, (below[-1] - below[:-1]) / (len(rising) - counts)
    between = counts * (len(rising) - counts) * (upper - lower) ** 2
    between[np.diff(rising) <= 0] = -1
    split = int(between.argmax())
    cut = float((rising[split] + rising[split + 1]) / 2)
    return cut, float(between[split] / (len(rising) ** 2 * rising.var()))


def _central(patches: MaskArray) -> MaskArray:
    inside = np.zeros_like(patches)
    spans = []
    for axis in (1, 0):
        lines = np.flatnonzero(patches.any(axis=axis))
        low, high = int(lines[0]), int(lines[-1]) + 1
        rim = (high - low) * (1 - CENTRE_SHARE) / 2
        spans.append(slice(round(low + rim), round(high - rim)))
    inside[spans[0], spans[1]] = True
    return inside
