from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.shapes import Circle
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.masks import patch_mask, rasterise
from orchestrator.patchcore.scoring import anomaly_map, heat_map, image_score
from tests import reference

CANVAS, GRID = (448, 448), (32, 32)
CROPS = [(448, 448), (120, 400), (400, 120), (90, 90), (700, 1000), (1, 60), (60, 1)]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), st.integers(0, 1000)
)
def test_the_map_is_the_naive_one(height: int, width: int, sigma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
    distances = rng.random(grid, dtype=np.float32)
    box = Letterbox.fit((height, width), (56, 56))
    # One valid patch, or the content: then no two fillings are equally near.
    valid = np.zeros(grid, dtype=np.bool_)
    valid[rng.integers(grid[0]), rng.integers(grid[1])] = True
    if seed % 2:
        valid = box.content_patches(grid)
    reach = round(3 * sigma)
    if reach >= min(height, width):
        sigma = 0.0
    drawn = anomaly_map(distances, valid, box, sigma=sigma)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, reference.anomaly_map(distances, valid, box, sigma), atol=2e-6)


@pytest.mark.parametrize("crop", CROPS)
def test_one_bad_patch_peaks_at_its_own_place_in_the_crop(crop: tuple[int, int]) -> None:
    box = Letterbox.fit(crop, CANVAS)
    valid = box.content_patches(GRID)
    for row, column in np.argwhere(valid)[:: max(1, int(valid.sum()) // 40)]:
        distances = np.zeros(GRID, dtype=np.float32)
        distances[row, column] = 1
        drawn = anomaly_map(distances, valid, box, sigma=1.0)
        assert drawn.shape == crop
        y, x = np.unravel_index(int(drawn.argmax()), crop)
        expected_x, expected_y = box.grid_to_crop(row, column, GRID)
        # On the rim the edge value holds, so the peak lies anywhere between the centre and the edge.
        patch_px = 14 * max(crop) / 448
        inner_row = valid[row - 1, column] and valid[(row + 1) % 32, column]
        inner_column = valid[row, column - 1] and valid[row, (column + 1) % 32]
        assert abs(y + 0.5 - expected_y) <= (1 if inner_row and 0 < row < 31 else patch_px + 1)
        assert abs(x + 0.5 - expected_x) <= (1 if inner_column and 0 < column < 31 else patch_px + 1)


def test_the_letterbox_is_undone_not_stretched_over() -> None:
    box = Letterbox.fit((112, 448), CANVAS)
    distances = np.zeros(GRID, dtype=np.float32)
    distances[12, 8] = 1  # the first content row: 168 px of padding are 12 patches
    drawn = anomaly_map(distances, box.content_patches(GRID), box, sigma=0)
    y, x = np.unravel_index(int(drawn.argmax()), drawn.shape)
    assert y <= 7
    assert abs(x - 8 * 14 - 7) <= 1


def test_padding_never_bleeds_into_the_map() -> None:
    box = Letterbox.fit((100, 400), CANVAS)
    content = box.content_patches(GRID)
    distances = np.where(content, np.float32(0.25), np.float32(1.9))
    np.testing.assert_allclose(anomaly_map(distances, content, box, sigma=1.0), 0.25, atol=1e-6)


def test_patches_outside_the_roi_never_bleed_into_it() -> None:
    mask = rasterise(Circle(224, 224, 100), (448, 448))
    box = Letterbox.fit((448, 448), CANVAS)
    valid = patch_mask(mask, box, GRID)
    distances = np.where(valid, np.float32(0.5), np.float32(2))
    np.testing.assert_allclose(anomaly_map(distances, valid, box, sigma=1.0)[mask], 0.5, atol=1e-6)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("sigma", [0.0, 1.0, 30.0])
def test_constant_distances_draw_a_constant_map(crop: tuple[int, int], sigma: float) -> None:
    box = Letterbox.fit(crop, CANVAS)
    distances = np.full(GRID, 0.7, dtype=np.float32)
    drawn = anomaly_map(distances, box.content_patches(GRID), box, sigma=sigma)
    np.testing.assert_allclose(drawn, 0.7, atol=1e-6)


def test_the_map_does_not_change_its_input() -> None:
    distances = np.random.default_rng(0).random(GRID, dtype=np.float32)
    before, valid = distances.copy(), np.eye(32, dtype=np.bool_)
    anomaly_map(distances, valid, Letterbox.fit((50, 50), CANVAS), sigma=1.0)
    np.testing.assert_array_equal(distances, before)


def test_a_map_of_no_patch_is_refused() -> None:
    with pytest.raises(InvalidInput, match="patch"):
        anomaly_map(
            np.ones(GRID, np.float32), np.zeros(GRID, np.bool_), Letterbox.fit((9, 9), CANVAS), sigma=1.0
        )


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(InvalidInput, match="sigma"):
        anomaly_map(
            np.ones(GRID, np.float32), np.ones(GRID, np.bool_), Letterbox.fit((9, 9), CANVAS), sigma=sigma
        )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.floats(0, 100), st.integers(0, 1000))
def test_the_score_is_the_linear_percentile_inside_the_mask(side: int, percentile: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anomaly = rng.random((side, side), dtype=np.float32)
    mask = rng.random((side, side)) < 0.5
    mask[0, 0] = True
    expected = reference.percentile(list(anomaly[mask]), percentile)
    assert image_score(anomaly, mask, percentile) == pytest.approx(expected, abs=1e-6)


def test_the_score_of_an_empty_mask_is_zero() -> None:
    assert image_score(np.ones((3, 3), np.float32), np.zeros((3, 3), np.bool_), 99) == 0.0


def test_what_lies_outside_the_mask_does_not_score() -> None:
    anomaly = np.array([[0.1, 9.0]], dtype=np.float32)
    assert image_score(anomaly, np.array([[True, False]]), 100) == pytest.approx(0.1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 25), st.integers(0, 1000))
def test_the_heat_map_is_the_naive_one_to_a_grey_level(side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    anomaly = rng.random((side, side + 3), dtype=np.float32)
    mask = rng.random(anomaly.shape) < 0.7
    mask[0, :2] = True
    heat = heat_map(anomaly, mask)
    assert heat.dtype == np.uint8
    assert abs(heat.astype(int) - reference.heat_map(anomaly, mask).astype(int)).max() <= 1
    assert not heat[~mask].any()


def test_the_heat_map_reaches_black_and_white() -> None:
    anomaly = np.linspace(0.3, 0.9, 400, dtype=np.float32).reshape(20, 20)
    heat = heat_map(anomaly, np.ones((20, 20), np.bool_))
    assert (heat.min(), heat.max()) == (0, 255)
    assert heat[10, 0] in (127, 128)


def test_a_constant_map_is_black_even_with_the_rounding_of_its_interpolation() -> None:
    anomaly = np.full((20, 20), 0.7, np.float32)
    anomaly[::2] += np.float32(1e-7)
    assert not heat_map(anomaly, np.ones((20, 20), np.bool_)).any()


def test_one_bright_pixel_on_a_constant_map_is_white() -> None:
    anomaly = np.full((20, 20), 0.7, np.float32)
    anomaly[5, 6] = 0.9
    heat = heat_map(anomaly, np.ones((20, 20), np.bool_))
    assert np.argwhere(heat).tolist() == [[5, 6]]
    assert heat[5, 6] == 255


def test_the_heat_map_of_an_empty_mask_is_black() -> None:
    assert not heat_map(np.ones((4, 4), np.float32), np.zeros((4, 4), np.bool_)).any()
