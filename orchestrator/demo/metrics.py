"""How well an inspection did: image and pixel AUROC, AUPRO, localisation, false rejects and escapes.

Knows scores, maps and masks; knows no files and no model. A higher score is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label
from scipy.stats import rankdata

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray
from orchestrator.errors import InvalidInput, NotEnoughSamples

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int64)


class ErrorRates(NamedTuple):
    """Shares 0..1 of good parts rejected, and of defective parts let through."""

    false_reject: float
    escape: float


def image_auroc(good_scores: ArrayLike, bad_scores: ArrayLike) -> float:
    """Compute the chance that a defective part scores above a good one, a tie counting half. 0..1.

    Raises NotEnoughSamples where either is empty, InvalidInput where a score is not finite.
    Source: Mann & Whitney 1947; Hanley & McNeil 1982.
    """
    good, bad = _scores(good_scores, "good"), _scores(bad_scores, "bad")
    return _auroc(np.concatenate([good, bad]), np.arange(good.size + bad.size) >= good.size)


def false_reject_and_escape(good_scores: ArrayLike, bad_scores: ArrayLike, threshold: float) -> ErrorRates:
    """Compute both error rates where a part is rejected iff its score >= threshold.

    Raises NotEnoughSamples where either is empty, InvalidInput where a score or the threshold is not finite.
    """
    good, bad = _scores(good_scores, "good"), _scores(bad_scores, "bad")
    if not np.isfinite(threshold):
        raise InvalidInput(f"threshold {threshold} must be a finite number")
    return ErrorRates(float(np.mean(good >= threshold)), float(np.mean(bad < threshold)))


def hits(anomaly_map: FloatArray, mask: MaskArray) -> bool:
    """Say whether the map's maximum lies in the defect, with no tolerance around it.

    anomaly_map: (H, W) float. mask: (H, W) bool. Where several pixels share the maximum, all must lie in it,
    so neither a flat nor a saturated map hits by luck.

    Raises InvalidInput where shapes differ, the mask is empty or the map is not finite.
    """
    _check_pair(anomaly_map, mask)
    if not mask.any():
        raise InvalidInput("the mask is empty; localisation is measured on defects that are drawn")
    return bool(mask[anomaly_map == anomaly_map.max()].all())


def hit_share(maps: Sequence[FloatArray], masks: Sequence[MaskArray]) -> float:
    """Compute the share of defects that the map's maximum falls into. 0..1.

    Raises NotEnoughSamples where there is none, InvalidInput as `hits` does.
    """
    if not maps:
        raise NotEnoughSamples("localisation needs at least one defect with a mask")
    return float(np.mean([hits(m, k) for m, k in zip(maps, masks, strict=True)]))


def pixel_auroc(maps: Sequence[FloatArray], masks: Sequence[MaskArray]) -> float:
    """Compute the AUROC over all pixels of all photographs together; a good photograph's mask is all false.

    maps: (H, W) float each, masks: (H, W) bool of the same shapes.

    Raises NotEnoughSamples where no pixel, or every pixel, is defective; InvalidInput as `hits` does.
    """
    scores, defective = _flat(maps, masks)
    if defective.all() or not defective.any():
        raise NotEnoughSamples("pixel AUROC needs defective pixels and sound ones")
    return _auroc(scores, defective)


def aupro(maps: Sequence[FloatArray], masks: Sequence[MaskArray], *, limit: float = 0.3) -> float:
    """Compute the mean per-region overlap over false-positive rates 0..limit (AUPRO). 0..1.

    maps, masks: as in `pixel_auroc`. Each 8-connected region of a mask counts the same, whatever its area.
    Exact: every distinct value of the maps is a threshold; the curve is linear between them.

    Raises NotEnoughSamples where there is no region or no sound pixel; InvalidInput where limit is not in (0,
    1]. Source: Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", IJCV, 5.2.
    """
    if not 0 < limit <= 1:
        raise InvalidInput(f"limit {limit} must be above 0 and at most 1")
    scores, defective = _flat(maps, masks)
    areas, region = _regions(masks)
    if areas.size == 0 or defective.all():
        raise NotEnoughSamples("AUPRO needs a defective region and sound pixels")
    # A sound pixel moves the curve right by its share of them, a defective one up by its share of its region.
    overlap = np.zeros(scores.size)
    overlap[defective] = 1.0 / (areas.size * areas[region[defective] - 1])
    order = np.argsort(-scores, kind="stable")
    last_of_value = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    rate = np.concatenate([[0.0], np.cumsum(~defective[order])[last_of_value] / np.count_nonzero(~defective)])
    height = np.concatenate([[0.0], np.cumsum(overlap[order])[last_of_value]])
    return _area_below(rate, height, limit) / limit


def _area_below(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Integrate the polyline over 0..limit; x rises to 1, and stands still where the line is upright."""
    inside = int(np.searchsorted(x, limit, side="right"))
    xs, ys = x[:inside], y[:inside]
    if xs[-1] < limit:
        share = (limit - xs[-1]) / (x[inside] - xs[-1])
        xs = np.append(xs, limit)
        ys = np.append(ys, ys[-1] + share * (y[inside] - ys[-1]))
    return float(np.trapezoid(ys, xs))


def _auroc(scores: NDArray[np.float64], positive: MaskArray) -> float:
    n_positive = int(np.count_nonzero(positive))
    n_negative = positive.size - n_positive
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def _regions(masks: Sequence[MaskArray]) -> tuple[IndexArray, IndexArray]:
    """Number the regions of all masks from 1: areas in px, and each pixel's region (0: none), flat."""
    numbered, found = [], 0
    for mask in masks:
        regions, count = label(mask, structure=_EIGHT_NEIGHBOURS)
        numbered.append(np.where(mask, regions.astype(np.int64) + found, 0).ravel())
        found += count
    flat = np.concatenate(numbered)
    return np.bincount(flat, minlength=found + 1)[1:].astype(np.int64), flat


def _flat(maps: Sequence[FloatArray], masks: Sequence[MaskArray]) -> tuple[NDArray[np.float64], MaskArray]:
    if not maps:
        raise NotEnoughSamples("pixel figures need at least one photograph")
    for anomaly_map, mask in zip(maps, masks, strict=True):
        _check_pair(anomaly_map, mask)
    scores = np.concatenate([m.ravel() for m in maps]).astype(np.float64)
    return scores, np.concatenate([m.ravel() for m in masks]).astype(np.bool_)


def _check_pair(anomaly_map: FloatArray, mask: MaskArray) -> None:
    if anomaly_map.ndim != 2 or anomaly_map.shape != mask.shape:
        raise InvalidInput(
            f"the anomaly map is {anomaly_map.shape} and the mask {mask.shape}; both must be (H, W)"
        )
    if not np.isfinite(anomaly_map).all():
        raise InvalidInput("the anomaly map has values that are not finite")


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64).ravel()
    if scores.size == 0:
        raise NotEnoughSamples(f"there are no {name} scores; at least one is needed")
    if not np.isfinite(scores).all():
        raise InvalidInput(f"a {name} score is not finite")
    return scores
