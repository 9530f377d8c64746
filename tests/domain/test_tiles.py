"""Windows over a crop: every pixel is seen, every token comes from where it lies most central."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import Tiling
from orchestrator.domain.tiles import MAX_WINDOWS, TiledAxis, TiledFrame, frame_of
from orchestrator.errors import InvalidInput

CANVAS, GRID = (112, 112), (8, 8)


@st.composite
def tiled(draw: st.DrawFn) -> tuple[TiledFrame, Tiling]:
    window = draw(st.integers(64, 200))
    tiling = Tiling(window, draw(st.integers(0, window // 3)))
    crop = draw(st.integers(window + 1, 600)), draw(st.integers(40, 600))
    return TiledFrame.fit(crop, CANVAS, GRID, tiling), tiling


def sides(frame: TiledFrame) -> list[tuple[int, int, TiledAxis]]:
    """Give each side's length, its window's length, and its axis."""
    return list(zip(frame.crop, frame.window.crop, (frame.rows, frame.columns), strict=True))


@settings(deadline=None, max_examples=60)
@given(tiled())
def test_windows_lie_on_the_crop_and_overlap_enough(made: tuple[TiledFrame, Tiling]) -> None:
    frame, tiling = made
    for side, window, axis in sides(frame):
        assert window == min(side, tiling.window_px)
        starts = axis.starts.tolist()
        assert (starts[0], starts[-1]) == (0, side - window)
        assert all(b - a <= window - tiling.overlap_px for a, b in itertools.pairwise(starts))
        if len(starts) > 1:
            # One window fewer would overlap too little.
            assert side - window > (len(starts) - 2) * (window - tiling.overlap_px)


@settings(deadline=None, max_examples=60)
@given(tiled())
def test_every_pixel_is_seen_and_tokens_stand_in_order(made: tuple[TiledFrame, Tiling]) -> None:
    frame, _ = made
    for side, window, axis in sides(frame):
        assert (np.diff(axis.centres) > 0).all()
        low, high = axis.spans.T
        assert (low[1:] <= high[:-1] + 1e-6).all()
        # A patch whose centre is padding is not merged: less than half of one stays out at the crop's ends.
        pitch = float((high - low).max())
        reach = 1e-6 if window == frame.window.crop[0] == frame.window.crop[1] else pitch / 2 + 1e-6
        assert low[0] <= reach
        assert high[-1] >= side - reach


@settings(deadline=None, max_examples=40)
@given(tiled())
def test_a_token_comes_from_the_window_it_lies_most_central_in(made: tuple[TiledFrame, Tiling]) -> None:
    frame, _ = made
    for _, window, axis in sides(frame):
        pitch = float(np.diff(axis.spans, axis=1).max())
        middles = axis.starts + window / 2
        for centre, own in zip(axis.centres, axis.window, strict=True):
            # Cells are taken whole, so a token may lie up to one patch beyond the middle between two windows.
            assert abs(centre - middles[own]) <= np.abs(centre - middles).min() + pitch + 1e-6


@settings(deadline=None, max_examples=40)
@given(tiled())
def test_a_token_is_the_one_of_its_window_that_sees_its_span(made: tuple[TiledFrame, Tiling]) -> None:
    frame, _ = made
    for axis_of, (_, _, axis) in enumerate(sides(frame)):
        own = frame.window.patch_spans(GRID)[axis_of]
        expected = [axis.starts[w] + own[t] for w, t in zip(axis.window, axis.token, strict=True)]
        np.testing.assert_allclose(axis.spans, expected)


@settings(deadline=None, max_examples=40)
@given(tiled(), st.data())
def test_the_way_to_the_crop_and_back_is_exact(made: tuple[TiledFrame, Tiling], data: st.DataObject) -> None:
    frame, _ = made
    rows, columns = frame.crop_to_grid(frame.grid)
    assert (rows.shape, columns.shape) == ((frame.crop[0],), (frame.crop[1],))
    row = data.draw(st.integers(0, frame.grid[0] - 1))
    column = data.draw(st.integers(0, frame.grid[1] - 1))
    x, y = frame.grid_to_crop(row, column, frame.grid)
    assert y == min(max(frame.rows.centres[row], 0), frame.crop[0] - 1)
    assert x == min(max(frame.columns.centres[column], 0), frame.crop[1] - 1)
    # The pixel that holds the centre lies within half a pixel of it.
    pitch = np.diff(frame.rows.centres).min() if frame.grid[0] > 1 else np.inf
    assert abs(rows[min(int(y), frame.crop[0] - 1)] - row) <= 0.5 / pitch + 1e-4


def test_worked_example() -> None:
    # Two windows of 112 px, 14 px a token, meeting at 105: the second begins at 98.
    frame = TiledFrame.fit((210, 112), CANVAS, GRID, Tiling(112, 14))
    assert frame.rows.starts.tolist() == [0, 98]
    assert frame.grid == (15, 8)
    assert frame.rows.window.tolist() == [0] * 8 + [1] * 7
    assert frame.rows.token.tolist() == [*range(8), *range(1, 8)]
    assert frame.rows.centres.tolist() == [7 + 14 * i for i in range(15)]
    assert frame.content_patches(frame.grid).all()
    assert frame.grid_to_crop(14, 0, frame.grid) == (7, 203)


def test_a_side_shorter_than_the_window_has_one_of_its_own_length() -> None:
    frame = TiledFrame.fit((56, 400), CANVAS, GRID, Tiling(112, 16))
    assert frame.window.crop == (56, 112)
    assert frame.rows.starts.tolist() == [0]
    # Half of the window's rows lie on padding and are not merged.
    assert frame.grid[0] == 4


@pytest.mark.parametrize("crop", [(112, 112), (30, 112), (1, 1)])
def test_a_crop_no_larger_than_the_window_is_plain(crop: tuple[int, int]) -> None:
    assert frame_of(crop, CANVAS, GRID, Tiling(112, 16)) == (Letterbox.fit(crop, CANVAS), GRID)
    assert frame_of((999, 999), CANVAS, GRID, None) == (Letterbox.fit((999, 999), CANVAS), GRID)


def test_too_many_windows_are_counted_and_refused() -> None:
    with pytest.raises(InvalidInput, match=f"289 windows of 64 px.*at most {MAX_WINDOWS}"):
        frame_of((17 * 64, 17 * 64), CANVAS, GRID, Tiling(64, 0))
    frame_of((16 * 64, 16 * 64), CANVAS, GRID, Tiling(64, 0))
    with pytest.raises(InvalidInput, match="less overlap"):
        frame_of((9000, 9000), CANVAS, GRID, Tiling(64, 63))


def test_another_grid_than_the_merged_one_is_a_mistake() -> None:
    frame = TiledFrame.fit((210, 112), CANVAS, GRID, Tiling(112, 14))
    with pytest.raises(AssertionError):
        frame.grid_to_crop(0, 0, GRID)
