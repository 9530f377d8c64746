"""Mirror images and quarter turns: drawn on the canvas, and turned back exactly on the tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from orchestrator.errors import InvalidInput
from orchestrator.features.views import VIEWS, View, check_views
from tests.fakes import PATCH_MEANS

GRID = (5, 5)
EVERY = VIEWS["rotations_flips"]


def canvases() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3), np.uint8)


def test_the_views_of_each_choice_are_all_different_and_never_the_original() -> None:
    image = canvases()
    counts = {"none": 0, "flips": 2, "rotations": 3, "rotations_flips": 7}
    for name, views in VIEWS.items():
        drawn = [image, *(view.draw(image) for view in views)]
        assert len({d.tobytes() for d in drawn}) == counts[name] + 1


def test_flips_are_the_two_mirror_images() -> None:
    image = canvases()
    across, upside_down = (view.draw(image) for view in VIEWS["flips"])
    np.testing.assert_array_equal(across, image[:, :, ::-1])
    np.testing.assert_array_equal(upside_down, image[:, ::-1])


@pytest.mark.parametrize("view", EVERY)
def test_a_token_of_a_view_stands_where_the_original_s_stands(view: View) -> None:
    image = canvases()
    # One token a 2 x 2 patch: the sum of its pixels, whatever way they are turned.
    tokens = [
        shown.reshape(2, 5, 2, 5, 2, 3).sum(axis=(2, 4), dtype=np.int64).reshape(2, 25, 3).astype(np.float16)
        for shown in (image, view.draw(image))
    ]
    assert not np.array_equal(tokens[0], tokens[1])
    np.testing.assert_array_equal(view.restore(tokens[1], GRID), tokens[0])


def test_quarter_turns_need_a_square_and_flips_do_not() -> None:
    wide = dataclasses.replace(PATCH_MEANS, input_size=(56, 112), grid=(4, 8))
    check_views("rotations_flips", PATCH_MEANS)
    with pytest.raises(InvalidInput, match=r"'rotations' needs .* square input.*flips"):
        check_views("rotations", wide)
    with pytest.raises(InvalidInput, match="square input"):
        check_views("rotations_flips", wide)
    check_views("flips", wide)
