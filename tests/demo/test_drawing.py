"""The drawn photographs: the same seed, the same pixels; a defect changes its mask and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from orchestrator.demo.defects import DefectKind
from orchestrator.demo.drawing import LEAST_CONTRAST, NOISE_SIGMA, Part, draw_part, draw_set
from orchestrator.errors import InvalidInput

SEEDS = range(3)
LAID_ON = (DefectKind.SCRATCH, DefectKind.DENT, DefectKind.STAIN)


def test_the_same_seed_draws_the_same_pixels_on_any_number_of_threads() -> None:
    def draw(kind: DefectKind | None) -> Part:
        return draw_part(11, defect=kind)

    kinds = [None, *DefectKind]
    alone = [draw(kind) for kind in kinds]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, kinds))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
        assert one.contrast_to_noise == other.contrast_to_noise


def test_another_seed_draws_another_photograph() -> None:
    difference = np.abs(draw_part(1).image.astype(int) - draw_part(2).image.astype(int))
    assert np.mean(difference > NOISE_SIGMA) > 0.2


@pytest.mark.parametrize("kind", list(DefectKind))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_defect_changes_only_pixels_of_its_mask_and_most_of_them(kind: DefectKind, seed: int) -> None:
    good, bad = draw_part(seed), draw_part(seed, defect=kind, contrast=16)
    changed = (good.image != bad.image).any(axis=2)
    assert bad.kind is kind
    assert not (changed & ~bad.mask).any()
    assert np.mean(changed[bad.mask]) > 0.8


@pytest.mark.parametrize("kind", LAID_ON)
@pytest.mark.parametrize("contrast", [LEAST_CONTRAST, 6.0])
def test_the_contrast_asked_for_is_the_contrast_measured(kind: DefectKind, contrast: float) -> None:
    for seed in SEEDS:
        good, bad = draw_part(seed), draw_part(seed, defect=kind, contrast=contrast)
        # Both photographs carry the same noise, so their difference is the defect, rounded twice.
        difference = (bad.image.astype(float) - good.image.astype(float))[bad.mask]
        measured = np.sqrt(np.mean(difference**2)) / NOISE_SIGMA
        assert bad.contrast_to_noise == pytest.approx(contrast, rel=0.03)
        assert measured == pytest.approx(contrast, rel=0.06)


def test_the_noise_has_the_standard_deviation_that_contrasts_are_counted_in() -> None:
    # On the mat grain adds a little; the second difference along a row takes the smooth part of it away.
    corner = draw_part(5, size=(480, 480)).image[:60, :60].astype(float)
    second = corner[:, 2:] - 2 * corner[:, 1:-1] + corner[:, :-2]
    assert second.std() / np.sqrt(6) == pytest.approx(NOISE_SIGMA, rel=0.25)


def test_a_scratch_stays_on_the_face_and_skips_holes_and_mat() -> None:
    for seed in (46, 75, 8):  # the first two run into a hole
        good = draw_part(seed, size=(160, 160))
        mask = draw_part(seed, size=(160, 160), defect=DefectKind.SCRATCH).mask
        assert good.image[mask].max(axis=1).min() > 55


def test_a_missing_hole_is_filled_with_metal() -> None:
    good, bad = draw_part(3), draw_part(3, defect=DefectKind.MISSING_HOLE)
    inner = binary_erosion(bad.mask, iterations=8)
    assert inner.any()
    assert np.median(good.image[inner]) < 60 < 90 < np.median(bad.image[inner])
    assert bad.contrast_to_noise > 10


def test_a_good_part_has_no_defect() -> None:
    part = draw_part(0)
    assert part.kind is None
    assert part.contrast_to_noise == 0
    assert not part.mask.any()


@pytest.mark.parametrize("size", [(64, 64), (120, 200), (300, 96)])
@pytest.mark.parametrize("kind", list(DefectKind))
def test_any_size_is_drawn_with_a_mask_of_its_own(size: tuple[int, int], kind: DefectKind) -> None:
    part = draw_part(4, size=size, defect=kind)
    assert part.image.shape == (*size, 3)
    assert part.image.dtype == np.uint8
    assert part.mask.shape == size
    assert part.mask.dtype == np.bool_
    assert 3 <= np.count_nonzero(part.mask) < 0.05 * part.mask.size


def test_a_set_takes_turns_in_kinds_and_reaches_down_to_twice_the_noise() -> None:
    drawn = draw_set(1, good=1, good_test=1, bad=12, size=(160, 160))
    assert [part.kind for part in drawn.bad] == list(DefectKind) * 3
    for kind in LAID_ON:
        contrasts = [part.contrast_to_noise for part in drawn.bad if part.kind is kind]
        assert contrasts[0] == pytest.approx(2, rel=0.03)
        assert contrasts[1] == pytest.approx(np.sqrt(2 * 16), rel=0.05)
        assert contrasts[2] > 10


def test_a_larger_set_starts_with_the_smaller_ones_good_photographs() -> None:
    small = draw_set(2, good=1, good_test=1, bad=0, size=(96, 96))
    large = draw_set(2, good=3, good_test=2, bad=1, size=(96, 96))
    assert np.array_equal(small.good[0].image, large.good[0].image)
    assert np.array_equal(small.good_test[0].image, large.good_test[0].image)
    pictures = {part.image.tobytes() for part in (*large.good, *large.good_test, *large.bad)}
    assert len(pictures) == 6


def test_values_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="size"):
        draw_part(0, size=(63, 200))
    with pytest.raises(InvalidInput, match="contrast"):
        draw_part(0, defect=DefectKind.DENT, contrast=0)
    with pytest.raises(InvalidInput, match="seed"):
        draw_part(-1)
    with pytest.raises(InvalidInput, match="bad"):
        draw_set(0, bad=-1)
