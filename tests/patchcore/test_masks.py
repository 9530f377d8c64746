from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.shapes import Annulus, Circle, Rect, Shape, parse_shape
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.masks import patch_mask, rasterise
from tests import reference

CANVAS, GRID = (56, 56), (4, 4)


def test_no_shape_is_the_whole_crop() -> None:
    mask = rasterise(None, (3, 5))
    assert mask.shape == (3, 5)
    assert mask.dtype == np.bool_
    assert mask.all()


def test_a_rectangle_is_cut_to_whole_pixels_and_clipped() -> None:
    mask = rasterise(Rect(2.9, -1, 3.9, 4), (6, 10))
    expected = np.zeros((6, 10), dtype=np.bool_)
    expected[0:3, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_circle_is_a_filled_disc_around_its_rounded_centre() -> None:
    mask = rasterise(Circle(50.4, 39.6, 20.3), (80, 100))
    ys, xs = np.ogrid[:80, :100]
    radius = np.hypot(ys - 40, xs - 50)
    assert mask[radius <= 19.3].all()
    assert not mask[radius > 20.7].any()


def test_an_annulus_is_the_disc_without_the_inner_disc() -> None:
    size = (80, 100)
    ring = rasterise(Annulus(50, 40, 30, 12), size)
    outer, inner = rasterise(Circle(50, 40, 30), size), rasterise(Circle(50, 40, 12), size)
    np.testing.assert_array_equal(ring, outer & ~inner)


def test_an_annulus_without_a_hole_is_a_disc() -> None:
    np.testing.assert_array_equal(
        rasterise(Annulus(20, 20, 9, 0), (40, 40)), rasterise(Circle(20, 20, 9), (40, 40))
    )


@pytest.mark.parametrize(
    "shape",
    [
        Rect(200, 100, 1, 1),
        Rect(-1, -1, 0.5, 0.5),
        Rect(5, 5, 0.2, 0.2),
        Circle(-1, -1, 0.001),
        Circle(201, 101, 0.001),
        Circle(5, 5, 0.01),
        Annulus(50, 50, 20.2, 20.1),
        Annulus(50, 50, 1.4, 1.3),
    ],
)
def test_the_smallest_accepted_shapes_cover_a_pixel(shape: Shape) -> None:
    assert rasterise(shape, (100, 200)).any()


def test_a_ring_thinner_than_a_pixel_is_still_a_ring() -> None:
    mask = rasterise(Annulus(50, 50, 20.2, 20.1), (100, 100))
    ys, xs = np.nonzero(mask)
    radius = np.hypot(ys - 50, xs - 50)
    assert len(ys) > 60
    assert radius.min() > 19
    assert radius.max() < 21.5


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_every_accepted_shape_covers_a_pixel(height: int, width: int, data: st.DataObject) -> None:
    real = st.floats(-3, 43, allow_nan=False)
    fields = data.draw(st.dictionaries(st.sampled_from(["x", "y", "w", "h", "cx", "cy", "r", "ri"]), real))
    kind = data.draw(st.sampled_from(["rect", "circle", "annulus"]))
    try:
        shape = parse_shape({"kind": kind, **fields}, (height, width))
    except InvalidInput:
        return
    mask = rasterise(shape, (height, width))
    assert mask.shape == (height, width)
    assert mask.any()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_patches_are_those_on_content_that_touch_the_mask(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0.002, 0.02, 0.5])
    mask[rng.integers(height), rng.integers(width)] = True
    box = Letterbox.fit((height, width), CANVAS)
    chosen = patch_mask(mask, box, GRID)
    content = box.content_patches(GRID)
    naive = reference.patch_touches(mask, box, GRID) & content
    if naive.any():
        np.testing.assert_array_equal(chosen, naive)
    assert chosen.any()
    assert not (chosen & ~content).any()


def test_one_pixel_chooses_one_patch() -> None:
    mask = np.zeros((448, 448), dtype=np.bool_)
    mask[14, 13] = True
    chosen = patch_mask(mask, Letterbox.fit((448, 448), (448, 448)), (32, 32))
    assert np.argwhere(chosen).tolist() == [[1, 0]]


@pytest.mark.parametrize(("side", "pixel", "patch"), [(244, 60, 7), (244, 61, 8), (116, 28, 7), (116, 29, 8)])
def test_a_patch_edge_on_a_pixel_edge_is_no_overlap(side: int, pixel: int, patch: int) -> None:
    # Patch 8 begins at pixel 61 of 244 and 29 of 116, but for the last bit of a float.
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[pixel, pixel] = True
    chosen = patch_mask(mask, Letterbox.fit((side, side), (448, 448)), (32, 32))
    assert chosen[patch, patch]
    assert not chosen[15 - patch].any()
    assert not chosen[:, 15 - patch].any()


def test_a_mask_in_a_sliver_of_padding_falls_to_the_nearest_content_patch() -> None:
    # 40 of 56 columns are content, 8 at each side padding: the first patch's centre (7) is padding.
    box = Letterbox.fit((56, 40), CANVAS)
    mask = np.zeros((56, 40), dtype=np.bool_)
    mask[30, 0] = True
    assert not box.content_patches(GRID)[:, 0].any()
    assert np.argwhere(patch_mask(mask, box, GRID)).tolist() == [[2, 1]]


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InvalidInput, match="shape"):
        patch_mask(np.zeros((5, 5), dtype=np.bool_), Letterbox.fit((5, 5), CANVAS), GRID)
