"""Windows as canvases, and their tokens as one grid."""

from __future__ import annotations

import numpy as np

from orchestrator.domain.memory_options import Tiling
from orchestrator.domain.tiles import TiledFrame
from orchestrator.features.tiling import draw_windows, merge_tokens

CANVAS, GRID = (112, 112), (8, 8)


def test_a_window_of_the_canvas_s_size_is_cut_out_untouched() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    frame = TiledFrame.fit((200, 300), CANVAS, GRID, Tiling(112, 20))
    canvases = draw_windows(crop, frame, "black")
    corners = [(y, x) for y in frame.rows.starts for x in frame.columns.starts]
    assert canvases.shape == (len(corners), 112, 112, 3)
    for canvas, (y, x) in zip(canvases, corners, strict=True):
        np.testing.assert_array_equal(canvas, crop[y : y + 112, x : x + 112])


def test_merged_tokens_are_those_of_a_loop_over_the_grid() -> None:
    frame = TiledFrame.fit((200, 300), CANVAS, GRID, Tiling(112, 20))
    columns = len(frame.columns.starts)
    windows = len(frame.rows.starts) * columns
    tokens = np.random.default_rng(0).normal(size=(windows, 64, 3)).astype(np.float16)
    merged = merge_tokens(tokens, frame, GRID).reshape(*frame.grid, 3)
    for row in range(frame.grid[0]):
        for column in range(frame.grid[1]):
            window = frame.rows.window[row] * columns + frame.columns.window[column]
            token = frame.rows.token[row] * GRID[1] + frame.columns.token[column]
            np.testing.assert_array_equal(merged[row, column], tokens[window, token])
