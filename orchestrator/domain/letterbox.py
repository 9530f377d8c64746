"""The geometry between a crop and the square that the backbone sees; knows sizes only, never pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.domain.arrays import FloatArray, MaskArray, SpanArray


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A crop scaled by one factor per axis and centred on a canvas.

    crop, canvas: (H, W) px. top, left, height, width: where the content lies on the canvas, px.
    """

    crop: tuple[int, int]
    canvas: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def fit(cls, crop: tuple[int, int], canvas: tuple[int, int]) -> Letterbox:
        """Place a crop as large as it goes, aspect kept to the nearest pixel, at least one pixel a side."""
        scale = min(canvas[0] / crop[0], canvas[1] / crop[1])
        height = min(canvas[0], max(1, round(crop[0] * scale)))
        width = min(canvas[1], max(1, round(crop[1] * scale)))
        return cls(crop, canvas, (canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width)

    def content_patches(self, grid: tuple[int, int]) -> MaskArray:
        """Tell which patches lie on the content: (R, C) bool, true where a patch's centre does.

        A content thinner than a patch keeps the patches nearest to its own centre line, so at least one is true.
        """
        rows = _axis_on_content(self.top, self.height, self.canvas[0], grid[0])
        columns = _axis_on_content(self.left, self.width, self.canvas[1], grid[1])
        return rows[:, None] & columns[None, :]

    def patch_spans(self, grid: tuple[int, int]) -> tuple[SpanArray, SpanArray]:
        """Give what every row and every column of patches sees: ((R, 2), (C, 2)) float64, crop px, from and to.

        Beyond the crop on padding.
        """
        rows = (np.arange(grid[0] + 1) * (self.canvas[0] / grid[0]) - self.top) * (self.crop[0] / self.height)
        columns = (np.arange(grid[1] + 1) * (self.canvas[1] / grid[1]) - self.left) * (
            self.crop[1] / self.width
        )
        return np.stack([rows[:-1], rows[1:]], axis=1), np.stack([columns[:-1], columns[1:]], axis=1)

    def crop_to_grid(self, grid: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Give, for every crop row and column, its place in token coordinates (token centres at integers).

        Returns ((H,), (W,)) float32.
        """
        ys = (np.arange(self.crop[0]) + 0.5) * (self.height / self.crop[0]) + self.top
        xs = (np.arange(self.crop[1]) + 0.5) * (self.width / self.crop[1]) + self.left
        return (
            (ys * (grid[0] / self.canvas[0]) - 0.5).astype(np.float32),
            (xs * (grid[1] / self.canvas[1]) - 0.5).astype(np.float32),
        )

    def grid_to_crop(self, row: float, column: float, grid: tuple[int, int]) -> tuple[float, float]:
        """Give the crop point (x, y), px, of a token's centre, held inside the crop."""
        y = ((row + 0.5) * self.canvas[0] / grid[0] - self.top) * self.crop[0] / self.height
        x = ((column + 0.5) * self.canvas[1] / grid[1] - self.left) * self.crop[1] / self.width
        return min(max(x, 0.0), self.crop[1] - 1.0), min(max(y, 0.0), self.crop[0] - 1.0)


def _axis_on_content(start: int, length: int, canvas: int, cells: int) -> MaskArray:
    centres = (np.arange(cells) + 0.5) * (canvas / cells)
    inside = (centres >= start) & (centres < start + length)
    if not inside.any():
        inside[int(np.argmin(np.abs(centres - (start + length / 2))))] = True
    return inside
