"""The figures, each against a naive version that follows its definition."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from orchestrator.demo.metrics import (
    aupro,
    false_reject_and_escape,
    hit_share,
    hits,
    image_auroc,
    pixel_auroc,
)
from orchestrator.errors import InvalidInput, NotEnoughSamples

# Few distinct values, so that ties are common.
scores = st.lists(st.integers(0, 6).map(lambda i: i / 4), min_size=1, max_size=12)


def naive_auroc(good: list[float], bad: list[float]) -> float:
    return float(np.mean([[1.0 if b > g else 0.5 if b == g else 0.0 for g in good] for b in bad]))


def naive_aupro(maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]], limit: float) -> float:
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps, false, sound = [], 0, 0
        for m, k in zip(maps, masks, strict=True):
            regions, count = label(k, structure=np.ones((3, 3)))
            overlaps += [float(np.mean(m[regions == i] >= threshold)) for i in range(1, count + 1)]
            false += int(np.count_nonzero(m[~k] >= threshold))
            sound += int(np.count_nonzero(~k))
        points.append((false / sound, float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def drawn_maps(seed: int, levels: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(4):
        mask = np.zeros((12 + i, 17), np.bool_)
        if i:
            mask[2:5, 3 : 4 + i] = True
            mask[9, 10:15] = True
            mask[10, 15] = True  # touches the line above at a corner: one region
        noisy = np.rint((rng.random(mask.shape) + 0.6 * mask) * levels) / levels
        maps.append(noisy.astype(np.float32))
        masks.append(mask)
    return maps, masks


@given(scores, scores)
def test_image_auroc_is_the_share_of_pairs_in_order(good: list[float], bad: list[float]) -> None:
    value = image_auroc(good, bad)
    assert value == pytest.approx(naive_auroc(good, bad), abs=1e-12)
    assert value == pytest.approx(roc_auc_score([0] * len(good) + [1] * len(bad), good + bad), abs=1e-12)


def test_image_auroc_at_its_ends() -> None:
    assert image_auroc([1, 2], [3]) == 1.0
    assert image_auroc([3], [1, 2]) == 0.0
    assert image_auroc([1, 1], [1]) == 0.5


@given(scores, scores, st.integers(-1, 7).map(lambda i: i / 4))
def test_error_rates_count_parts(good: list[float], bad: list[float], threshold: float) -> None:
    rates = false_reject_and_escape(good, bad, threshold)
    assert rates.false_reject == pytest.approx(sum(s >= threshold for s in good) / len(good))
    assert rates.escape == pytest.approx(sum(s < threshold for s in bad) / len(bad))


def test_a_score_at_the_threshold_is_rejected() -> None:
    assert false_reject_and_escape([0.5], [0.5], 0.5) == (1.0, 0.0)


@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_auroc_equals_scikit_learns(levels: int, seed: int) -> None:
    maps, masks = drawn_maps(seed, levels)
    flat = np.concatenate([k.ravel() for k in masks]), np.concatenate([m.ravel() for m in maps])
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(*flat), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [3, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_its_definition(seed: int, levels: int, limit: float) -> None:
    maps, masks = drawn_maps(seed, levels)
    assert aupro(maps, masks, limit=limit) == pytest.approx(naive_aupro(maps, masks, limit), abs=1e-9)


def test_aupro_counts_a_small_region_as_much_as_a_large_one() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[:20, :20] = True
    mask[30, 30] = True
    only_small, only_large = np.zeros((2, 40, 40), np.float32)
    only_small[30, 30] = 1
    only_large[:20, :20] = 1
    assert aupro([only_small], [mask]) == pytest.approx(aupro([only_large], [mask]))
    assert aupro([mask.astype(np.float32)], [mask]) == pytest.approx(1.0)
    assert aupro([-mask.astype(np.float32)], [mask]) == pytest.approx(0.0)


def test_aupro_of_two_million_pixels_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    maps = list(rng.random((8, 512, 512), dtype=np.float32))
    masks = [np.zeros((512, 512), np.bool_) for _ in maps]
    masks[0][100:130, 50:90] = True
    began = time.process_time()
    assert aupro(maps, masks) == pytest.approx(0.15, abs=0.02)
    assert time.process_time() - began < 10


def test_a_hit_is_the_maximum_inside_the_mask_without_tolerance() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[2, 3] = True
    inside, beside = np.zeros((2, 5, 6), np.float32)
    inside[2, 3], beside[2, 4] = 1, 1
    assert hits(inside, mask)
    assert not hits(beside, mask)
    assert hit_share([inside, beside, beside, beside], [mask] * 4) == 0.25


def test_a_flat_or_saturated_map_does_not_hit_by_luck() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[0, 0] = True
    flat = np.ones((4, 4), np.float32)
    assert not hits(flat, mask)
    assert hits(flat, np.ones((4, 4), np.bool_))


def test_what_cannot_be_measured_is_refused() -> None:
    empty = np.zeros((3, 3), np.bool_)
    level = np.zeros((3, 3), np.float32)
    with pytest.raises(NotEnoughSamples, match="no good scores"):
        image_auroc([], [1])
    with pytest.raises(NotEnoughSamples, match="no bad scores"):
        false_reject_and_escape([1], [], 0)
    with pytest.raises(InvalidInput, match="not finite"):
        image_auroc([np.nan], [1])
    with pytest.raises(InvalidInput, match="threshold"):
        false_reject_and_escape([1], [1], np.inf)
    with pytest.raises(InvalidInput, match="empty"):
        hits(level, empty)
    with pytest.raises(InvalidInput, match=r"\(H, W\)"):
        hits(level, np.ones((3, 4), np.bool_))
    with pytest.raises(InvalidInput, match="not finite"):
        hits(np.full((3, 3), np.nan, np.float32), ~empty)
    with pytest.raises(NotEnoughSamples):
        hit_share([], [])
    for figure in (pixel_auroc, aupro):
        for masks in ([empty], [~empty]):
            with pytest.raises(NotEnoughSamples):
                figure([level], masks)
        with pytest.raises(NotEnoughSamples):
            figure([], [])
    with pytest.raises(InvalidInput, match="limit"):
        aupro([level], [~empty], limit=0)
