from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.frame import patch_in_crop
from orchestrator.domain.letterbox import Letterbox

CANVAS = (448, 448)
GRID = (32, 32)
CROPS = [(448, 448), (100, 400), (400, 100), (3000, 4000), (1, 50), (50, 1), (1, 1), (449, 448), (1, 5000)]
sides = st.integers(1, 6000)


@pytest.mark.parametrize("crop", CROPS)
def test_content_fills_one_side_and_is_centred(crop: tuple[int, int]) -> None:
    box = Letterbox.fit(crop, CANVAS)
    assert max(box.height, box.width) == 448
    assert abs(2 * box.top + box.height - 448) <= 1
    assert abs(2 * box.left + box.width - 448) <= 1


def test_worked_example_of_a_wide_crop() -> None:
    assert Letterbox.fit((100, 400), CANVAS) == Letterbox((100, 400), CANVAS, 168, 0, 112, 448)


@settings(deadline=None, max_examples=60)
@given(sides, sides)
def test_content_keeps_its_aspect_to_a_pixel_and_stays_on_the_canvas(height: int, width: int) -> None:
    box = Letterbox.fit((height, width), CANVAS)
    scale = 448 / max(height, width)
    assert abs(box.height - max(1, height * scale)) <= 0.5
    assert abs(box.width - max(1, width * scale)) <= 0.5
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= 448
    assert box.left + box.width <= 448


@settings(deadline=None, max_examples=60)
@given(sides, sides)
def test_at_least_one_patch_is_content(height: int, width: int) -> None:
    assert Letterbox.fit((height, width), CANVAS).content_patches(GRID).any()


def test_patches_on_padding_are_not_content() -> None:
    content = Letterbox.fit((100, 400), CANVAS).content_patches(GRID)
    assert content[12:20].all()
    assert not content[:12].any()
    assert not content[20:].any()


def test_a_square_crop_is_content_everywhere() -> None:
    assert Letterbox.fit((123, 123), CANVAS).content_patches(GRID).all()


@pytest.mark.parametrize("crop", [c for c in CROPS if min(c) > 1])
def test_crop_and_grid_coordinates_are_inverse(crop: tuple[int, int]) -> None:
    box = Letterbox.fit(crop, CANVAS)
    rows, columns = box.crop_to_grid(GRID)
    for y in {0, crop[0] // 2, crop[0] - 2}:
        for x in {0, crop[1] // 2, crop[1] - 2}:
            back_x, back_y = box.grid_to_crop(float(rows[y]), float(columns[x]), GRID)
            assert (back_x, back_y) == pytest.approx((x + 0.5, y + 0.5), abs=1e-2)


def test_the_corner_of_a_square_crop_lies_half_a_patch_before_the_first_token() -> None:
    rows, columns = Letterbox.fit((448, 448), CANVAS).crop_to_grid(GRID)
    assert rows[0] == pytest.approx(0.5 / 14 - 0.5)
    assert columns[-1] == pytest.approx(447.5 / 14 - 0.5)
    assert rows.dtype == np.float32


def test_a_token_on_padding_is_held_inside_the_crop() -> None:
    assert Letterbox.fit((100, 400), CANVAS).grid_to_crop(0, 31, GRID)[1] == 0.0
    assert Letterbox.fit((100, 400), CANVAS).grid_to_crop(31, 31, GRID)[1] == 99.0


@pytest.mark.parametrize("crop", CROPS)
def test_the_patches_cover_the_crop_once_and_hold_their_centres(crop: tuple[int, int]) -> None:
    box = Letterbox.fit(crop, CANVAS)
    area = 0.0
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            left, top, right, bottom = patch_in_crop(box, (row, column), GRID)
            assert 0 <= left <= right <= crop[1]
            assert 0 <= top <= bottom <= crop[0]
            area += (right - left) * (bottom - top)
            if box.content_patches(GRID)[row, column]:
                x, y = box.grid_to_crop(row, column, GRID)
                # A centre beyond the last pixel's corner is held there.
                assert min(left, crop[1] - 1) <= x + 1e-9
                assert x <= right + 1e-9
                assert min(top, crop[0] - 1) <= y + 1e-9
                assert y <= bottom + 1e-9
    assert area == pytest.approx(crop[0] * crop[1])


def test_a_patch_of_a_wide_crop_covers_a_square_of_it() -> None:
    # 448 px of canvas in 32 patches: 14 px each, 12.5 px of the crop; the content begins at 168 px, row 12.
    assert patch_in_crop(Letterbox.fit((100, 400), CANVAS), (13, 2), GRID) == pytest.approx(
        (25, 12.5, 37.5, 25)
    )
