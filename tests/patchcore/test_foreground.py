"""Foreground by the first principal component, on drawn tokens."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.domain.arrays import HalfArray, MaskArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import Tiling
from orchestrator.domain.tiles import TiledFrame
from orchestrator.patchcore.foreground import fit_axis, foreground_patches, foreground_pixels
from orchestrator.patchcore.memory_bank import l2_normalise

GRID = (10, 12)
EVERYWHERE = np.ones(GRID, dtype=np.bool_)


def part_in(rows: slice, columns: slice) -> MaskArray:
    part = np.zeros(GRID, dtype=np.bool_)
    part[rows, columns] = True
    return part


MIDDLE = part_in(slice(3, 7), slice(4, 9))


def tokens_of(part: MaskArray, seed: int, *, dim: int = 16, swapped: bool = False) -> HalfArray:
    """Draw tokens of two materials, one where the part is; swapped exchanges the materials."""
    materials = np.random.default_rng(7).normal(size=(2, dim))
    noise = np.random.default_rng(seed).normal(scale=0.15, size=(part.size, dim))
    kind = part.reshape(-1).astype(int) ^ int(swapped)
    return l2_normalise((materials[kind] + noise).astype(np.float32)).astype(np.float16)


def above(tokens: HalfArray, axis: ForegroundAxis) -> MaskArray:
    found: MaskArray = (tokens.astype(np.float32) @ axis.direction > axis.cut).reshape(GRID)
    return found


@pytest.mark.parametrize("swapped", [False, True])
def test_the_part_is_the_side_that_fills_the_middle_whatever_its_material(swapped: bool) -> None:
    photographs = [tokens_of(MIDDLE, seed, swapped=swapped) for seed in range(4)]
    found = fit_axis(photographs, [EVERYWHERE] * 4)
    axis = found.axis
    assert found.separation > 0.95
    assert found.share == pytest.approx(MIDDLE.mean())
    for tokens in [*photographs, tokens_of(MIDDLE, 99, swapped=swapped)]:
        np.testing.assert_array_equal(above(tokens, axis), MIDDLE)


def test_the_axis_is_that_of_a_naive_decomposition() -> None:
    photographs = [tokens_of(MIDDLE, seed) for seed in range(3)]
    axis = fit_axis(photographs, [EVERYWHERE] * 3).axis
    rows = np.concatenate(photographs).astype(np.float64)
    _, _, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert abs(float(vectors[0] @ axis.direction)) == pytest.approx(1, abs=1e-5)
    # Otsu's cut, tried at every place.
    places = np.sort(rows @ axis.direction.astype(np.float64))
    variances = [
        k * (len(places) - k) * (places[:k].mean() - places[k:].mean()) ** 2 for k in range(1, len(places))
    ]
    best = int(np.argmax(variances))
    assert axis.cut == pytest.approx((places[best] + places[best + 1]) / 2, abs=1e-4)


def test_tokens_spread_evenly_along_a_line_are_three_quarters_apart() -> None:
    ends = np.random.default_rng(0).normal(size=(2, 16))
    along = np.random.default_rng(1).permutation(np.linspace(0, 0.2, EVERYWHERE.size))[:, None]
    tokens = l2_normalise((ends[0] + along * ends[1]).astype(np.float32)).astype(np.float16)
    assert fit_axis([tokens], [EVERYWHERE]).separation == pytest.approx(0.75, abs=0.02)


def test_the_same_photographs_give_the_same_axis() -> None:
    photographs = [tokens_of(MIDDLE, seed) for seed in range(3)]
    first, again = (fit_axis(photographs, [EVERYWHERE] * 3).axis for _ in range(2))
    np.testing.assert_array_equal(first.direction, again.direction)
    assert first.cut == again.cut


def test_the_middle_is_that_of_the_patches_that_count() -> None:
    # The part fills the middle of the ROI, which lies in a corner of the crop.
    roi, part = part_in(slice(0, 6), slice(0, 6)), part_in(slice(1, 5), slice(1, 5))
    found = fit_axis([tokens_of(part, 0)], [roi])
    axis = found.axis
    assert found.share == pytest.approx(16 / 36)
    np.testing.assert_array_equal(above(tokens_of(part, 1), axis), part)


def test_patches_that_do_not_count_move_nothing() -> None:
    roi, part = part_in(slice(0, 6), slice(0, 6)), part_in(slice(1, 5), slice(1, 5))
    tokens = tokens_of(part, 0)
    other = tokens.copy()
    other[~roi.reshape(-1)] = tokens_of(~part, 5)[~roi.reshape(-1)]
    axis, moved = fit_axis([tokens], [roi]).axis, fit_axis([other], [roi]).axis
    np.testing.assert_array_equal(axis.direction, moved.direction)
    assert axis.cut == moved.cut
    assert not (foreground_patches(other, roi, axis) & ~roi).any()


def test_tokens_without_spread_all_show_the_part() -> None:
    tokens = np.tile(tokens_of(MIDDLE, 0)[:1], (EVERYWHERE.size, 1))
    found = fit_axis([tokens], [EVERYWHERE])
    assert (found.share, found.separation) == (1, 0)
    assert foreground_patches(tokens, EVERYWHERE, found.axis).all()


def test_a_defect_on_the_part_s_edge_and_a_hole_in_it_stay_in() -> None:
    axis = fit_axis([tokens_of(MIDDLE, 0)], [EVERYWHERE]).axis
    bitten = MIDDLE.copy()
    bitten[3, 6] = bitten[5, 6] = False
    kept = foreground_patches(tokens_of(bitten, 1), EVERYWHERE, axis)
    assert kept[MIDDLE].all()
    np.testing.assert_array_equal(kept, part_in(slice(2, 8), slice(3, 10)))


def test_a_part_near_the_grid_s_border_does_not_reach_it() -> None:
    near = part_in(slice(2, 8), slice(2, 10))
    axis = fit_axis([tokens_of(near, 0)], [EVERYWHERE]).axis
    kept = foreground_patches(tokens_of(near, 1), EVERYWHERE, axis)
    np.testing.assert_array_equal(kept, part_in(slice(1, 9), slice(1, 11)))


def test_where_nothing_shows_the_part_no_patch_is_kept() -> None:
    axis = fit_axis([tokens_of(MIDDLE, 0)], [EVERYWHERE]).axis
    assert not foreground_patches(tokens_of(np.zeros_like(MIDDLE), 1), EVERYWHERE, axis).any()


@pytest.mark.parametrize("crop", [(90, 160), (160, 90), (33, 33), (300, 500)])
def test_pixels_belong_to_their_nearest_patch_that_counts(crop: tuple[int, int]) -> None:
    frame = Letterbox.fit(crop, (112, 112))
    grid = (8, 8)
    patches = frame.content_patches(grid)
    kept = patches & (np.random.default_rng(0).random(grid) > 0.5)
    mask = np.random.default_rng(1).random(crop) > 0.2
    pixels = foreground_pixels(mask, frame, patches, kept)
    rows, columns = frame.crop_to_grid(grid)
    counted = np.argwhere(patches)
    for y, x in np.argwhere(mask)[::97]:
        away = np.abs(counted - (rows[y], columns[x])).max(axis=1)
        nearest = [tuple(p) for p in counted[away <= away.min() + 1e-4]]
        assert pixels[y, x] in {bool(kept[p]) for p in nearest}
    assert not (pixels & ~mask).any()


def test_pixels_of_a_tiled_crop_follow_the_merged_grid() -> None:
    frame = TiledFrame.fit((210, 112), (112, 112), (8, 8), Tiling(112, 14))
    patches = frame.content_patches(frame.grid)
    kept = np.zeros_like(patches)
    kept[9, 3] = True
    pixels = foreground_pixels(np.ones((210, 112), np.bool_), frame, patches, kept)
    expected = np.zeros_like(pixels)
    expected[9 * 14 : 10 * 14, 3 * 14 : 4 * 14] = True
    np.testing.assert_array_equal(pixels, expected)


def test_a_mask_that_meets_no_kept_patch_counts_as_a_whole() -> None:
    frame = Letterbox.fit((112, 112), (112, 112))
    patches = np.ones((8, 8), np.bool_)
    mask = np.zeros((112, 112), np.bool_)
    mask[50, 50] = True
    np.testing.assert_array_equal(foreground_pixels(mask, frame, patches, ~patches), mask)
