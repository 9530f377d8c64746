"""Where a photograph's patch tokens lie on its crop: what every arrangement of tokens can tell."""

from __future__ import annotations

from typing import Protocol

from orchestrator.domain.arrays import FloatArray, MaskArray, SpanArray


class Frame(Protocol):
    """Joins a crop, (H, W) px, with a grid of tokens; `grid` is always the one that the tokens come in."""

    @property
    def crop(self) -> tuple[int, int]:
        """The crop's (H, W), px."""

    def content_patches(self, grid: tuple[int, int]) -> MaskArray:
        """Tell which patches lie on the crop and not on padding: (R, C) bool, at least one true."""

    def patch_spans(self, grid: tuple[int, int]) -> tuple[SpanArray, SpanArray]:
        """Give what every row and every column of patches sees: ((R, 2), (C, 2)), crop px, from and to."""

    def crop_to_grid(self, grid: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Give, for every crop row and column, its place in token coordinates (token centres at integers)."""

    def grid_to_crop(self, row: float, column: float, grid: tuple[int, int]) -> tuple[float, float]:
        """Give the crop point (x, y), px, of a token's centre, held inside the crop."""


def patch_in_crop(
    frame: Frame, patch: tuple[int, int], grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Give what a patch, (row, column), covers of the crop, clipped to it: (left, top, right, bottom), px."""
    rows, columns = frame.patch_spans(grid)
    height, width = frame.crop
    top, bottom = (min(max(float(y), 0.0), float(height)) for y in rows[patch[0]])
    left, right = (min(max(float(x), 0.0), float(width)) for x in columns[patch[1]])
    return left, top, right, bottom
