from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.arrays import FloatArray, MaskArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.regions import Region, find_regions
from tests.reference import components


def two_squares() -> tuple[FloatArray, MaskArray]:
    anomaly = np.zeros((40, 60), dtype=np.float32)
    anomaly[5:10, 7:13] = 0.6
    anomaly[7, 9] = 0.8
    anomaly[20:31, 30:41] = 0.5
    return anomaly, np.ones(anomaly.shape, dtype=np.bool_)


def test_worked_example() -> None:
    anomaly, mask = two_squares()
    large, small = find_regions(anomaly, mask, 0.5, mm_per_px=0.2, area_mm2_thr=0)
    assert large.bbox == (30, 20, 11, 11)
    assert large.area_px == 100.0
    assert large.area_mm2 == pytest.approx(4.0)
    assert large.score == 0.5
    assert large.contour == [(30, 20), (30, 30), (40, 30), (40, 20)]
    assert small.bbox == (7, 5, 6, 5)
    assert small.area_px == 20.0
    assert small.area_mm2 == pytest.approx(0.8)
    assert small.score == pytest.approx(0.8)


def test_the_threshold_itself_counts() -> None:
    anomaly, mask = two_squares()
    level = float(np.float32(0.6))
    assert len(find_regions(anomaly, mask, level, mm_per_px=1, area_mm2_thr=0)) == 1
    assert not find_regions(anomaly, mask, 0.81, mm_per_px=1, area_mm2_thr=0)


@pytest.mark.parametrize(("area_mm2_thr", "count"), [(0.0, 2), (0.8, 2), (0.81, 1), (4.0, 1), (4.01, 0)])
def test_areas_below_the_limit_are_dropped(area_mm2_thr: float, count: int) -> None:
    anomaly, mask = two_squares()
    assert len(find_regions(anomaly, mask, 0.5, mm_per_px=0.2, area_mm2_thr=area_mm2_thr)) == count


def test_one_pixel_is_a_region_of_no_area() -> None:
    anomaly = np.zeros((9, 9), dtype=np.float32)
    anomaly[4, 5] = 1
    mask = np.ones((9, 9), dtype=np.bool_)
    assert find_regions(anomaly, mask, 0.5, mm_per_px=1, area_mm2_thr=0) == [
        Region((5, 4, 1, 1), 0.0, 0.0, 1.0, [(5, 4)])
    ]
    assert not find_regions(anomaly, mask, 0.5, mm_per_px=1, area_mm2_thr=1e-9)


def test_a_region_in_the_hole_of_another_belongs_to_it() -> None:
    anomaly = np.zeros((30, 30), dtype=np.float32)
    anomaly[2:28, 2:28] = 0.5
    anomaly[6:24, 6:24] = 0.1
    anomaly[12:15, 12:15] = 0.9
    (region,) = find_regions(anomaly, np.ones((30, 30), np.bool_), 0.4, mm_per_px=1, area_mm2_thr=0)
    assert region.area_px == 625.0
    assert region.score == pytest.approx(0.9)


def test_what_lies_outside_the_mask_neither_counts_nor_scores() -> None:
    anomaly, mask = two_squares()
    mask[:, 9] = False
    found = find_regions(anomaly, mask, 0.5, mm_per_px=1, area_mm2_thr=0)
    assert [r.bbox for r in found] == [(30, 20, 11, 11), (10, 5, 3, 5), (7, 5, 2, 5)]
    assert found[1].score == pytest.approx(0.6)


def test_a_hot_pixel_that_the_mask_cuts_out_of_a_region_does_not_score() -> None:
    anomaly, mask = two_squares()
    mask[7, 9] = False
    found = find_regions(anomaly, mask, 0.5, mm_per_px=1, area_mm2_thr=0)
    assert found[1].bbox == (7, 5, 6, 5)
    assert found[1].score == pytest.approx(0.6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 25), st.integers(1, 25), st.floats(0.1, 0.9), st.integers(0, 1000))
def test_regions_are_the_outermost_connected_parts(height: int, width: int, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anomaly = rng.random((height, width), dtype=np.float32)
    mask = rng.random((height, width)) < 0.8
    found = find_regions(anomaly, mask, level, mm_per_px=0.5, area_mm2_thr=0)
    parts = components((anomaly >= np.float32(level)) & mask)
    boxes = {
        (min(x for _, x in p), min(y for y, _ in p), max(x for _, x in p), max(y for y, _ in p))
        for p in parts
    }
    corners = {(x, y, x + w - 1, y + h - 1) for x, y, w, h in (r.bbox for r in found)}
    assert corners <= boxes
    # Whatever is missing lies in a hole, so inside a found box.
    for x0, y0, x1, y1 in boxes - corners:
        assert any(a < x0 and b < y0 and c > x1 and d > y1 for a, b, c, d in corners)
    assert [r.area_px for r in found] == sorted((r.area_px for r in found), reverse=True)
    for region in found:
        x, y, w, h = region.bbox
        assert level <= region.score + 1e-7 <= float(anomaly[y : y + h, x : x + w].max()) + 2e-7
        assert region.area_mm2 == pytest.approx(region.area_px * 0.25)


@pytest.mark.parametrize("threshold", [1e300, -1e300, math.inf, -math.inf])
def test_a_threshold_beyond_float32_is_compared_all_the_same(threshold: float) -> None:
    anomaly, mask = two_squares()
    found = find_regions(anomaly, mask, threshold, mm_per_px=1, area_mm2_thr=0)
    assert len(found) == (1 if threshold < 0 else 0)


@pytest.mark.parametrize("mm_per_px", [0.0, -1.0, math.nan, math.inf, 1e-200, 1e200])
def test_a_scale_without_area_is_refused(mm_per_px: float) -> None:
    anomaly, mask = two_squares()
    with pytest.raises(InvalidInput, match="mm_per_px"):
        find_regions(anomaly, mask, 0.5, mm_per_px=mm_per_px, area_mm2_thr=1)
