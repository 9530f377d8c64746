"""Windows of a large crop as a batch for the graph, and their tokens as one grid again. Knows no model."""

from __future__ import annotations

import numpy as np

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import Padding
from orchestrator.domain.tiles import TiledFrame
from orchestrator.features.preprocess import apply_letterbox


def draw_windows(pixels: ImageArray, frame: TiledFrame, padding: Padding) -> ImageArray:
    """Letterbox every window onto a canvas of its own, row by row: (B, H, W, 3) uint8.

    pixels: frame.crop + (3,) uint8.
    """
    height, width = frame.window.crop
    canvases = np.empty(
        (len(frame.rows.starts) * len(frame.columns.starts), *frame.window.canvas, 3), np.uint8
    )
    corners = [(int(y), int(x)) for y in frame.rows.starts for x in frame.columns.starts]
    for canvas, (y, x) in zip(canvases, corners, strict=True):
        canvas[...] = apply_letterbox(pixels[y : y + height, x : x + width], frame.window, padding)
    return canvases


def merge_tokens(tokens: HalfArray, frame: TiledFrame, grid: tuple[int, int]) -> HalfArray:
    """Take every token of the merged grid from its window: (N, D), row-major over frame.grid.

    tokens: (B, R·C, D) of the windows, in the order of `draw_windows`. grid: (R, C) of the backbone.
    """
    rows, columns = frame.rows, frame.columns
    windows = tokens.reshape(len(rows.starts), len(columns.starts), *grid, -1)
    merged: HalfArray = windows[
        rows.window[:, None], columns.window[None, :], rows.token[:, None], columns.token[None, :]
    ]
    return merged.reshape(-1, tokens.shape[-1])
