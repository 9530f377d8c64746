"""The geometry of windows over a large crop, and of the one token grid that is merged from them; never pixels.

Every window is letterboxed to the backbone's canvas on its own. Of the windows that see a place, the token comes from
the one it lies most central in. The two sides of a crop are independent of each other, so the merged tokens form a
grid; where two windows meet, its rows or columns may stand closer together than elsewhere, never wider apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray, SpanArray
from orchestrator.domain.frame import Frame
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import Tiling
from orchestrator.errors import InvalidInput

MAX_WINDOWS = 256
_EDGE_PX = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class TiledAxis:
    """One side of a crop, cut into windows.

    starts: (S,) first px of each window. window, token: (n,) which window each merged row comes from, and which of
    the window's own rows it is. spans: (n, 2) what each sees, crop px.
    """

    starts: IndexArray
    window: IndexArray
    token: IndexArray
    spans: SpanArray

    @property
    def centres(self) -> SpanArray:
        """The merged rows' middles, crop px, rising: (n,)."""
        middles: SpanArray = self.spans.mean(axis=1)
        return middles


@dataclass(frozen=True, slots=True, eq=False)
class TiledFrame:
    """A crop seen through windows. window: the letterbox of every one of them. rows, columns: its two sides."""

    crop: tuple[int, int]
    window: Letterbox
    rows: TiledAxis
    columns: TiledAxis

    @classmethod
    def fit(
        cls, crop: tuple[int, int], canvas: tuple[int, int], grid: tuple[int, int], tiling: Tiling
    ) -> TiledFrame:
        """Lay as few windows as overlap enough, evenly, the outermost flush with the crop's edges.

        canvas, grid: of the backbone. A side shorter than the window has one window of its own length.

        Raises InvalidInput where that takes more than MAX_WINDOWS.
        """
        counts = [_window_count(side, tiling) for side in crop]
        if math.prod(counts) > MAX_WINDOWS:
            raise InvalidInput(
                f"tile_px: a crop of {crop[1]} x {crop[0]} px takes {math.prod(counts)} windows of "
                f"{tiling.window_px} px that overlap by {tiling.overlap_px}; at most {MAX_WINDOWS} are computed. Send "
                "smaller crops, or fit with larger windows or less overlap."
            )
        sides = min(tiling.window_px, crop[0]), min(tiling.window_px, crop[1])
        window = Letterbox.fit(sides, canvas)
        content = window.content_patches(grid)
        rows, columns = window.patch_spans(grid)
        return cls(
            crop,
            window,
            _axis(crop[0], sides[0], counts[0], rows, np.flatnonzero(content.any(axis=1))),
            _axis(crop[1], sides[1], counts[1], columns, np.flatnonzero(content.any(axis=0))),
        )

    @property
    def grid(self) -> tuple[int, int]:
        """The merged token grid (R, C)."""
        return len(self.rows.token), len(self.columns.token)

    def content_patches(self, grid: tuple[int, int]) -> MaskArray:
        """Tell which patches lie on the crop: all, since tokens on padding are not merged."""
        self._check(grid)
        return np.ones(grid, dtype=np.bool_)

    def patch_spans(self, grid: tuple[int, int]) -> tuple[SpanArray, SpanArray]:
        """Give what every row and every column of patches sees. See `Frame`."""
        self._check(grid)
        return self.rows.spans, self.columns.spans

    def crop_to_grid(self, grid: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Give every crop row's and column's place in token coordinates, held within the outermost centres."""
        self._check(grid)
        return _places(self.crop[0], self.rows), _places(self.crop[1], self.columns)

    def grid_to_crop(self, row: float, column: float, grid: tuple[int, int]) -> tuple[float, float]:
        """Give the crop point (x, y), px, of a token's centre, held inside the crop."""
        self._check(grid)
        y, x = _point(row, self.rows), _point(column, self.columns)
        return min(max(x, 0.0), self.crop[1] - 1.0), min(max(y, 0.0), self.crop[0] - 1.0)

    def _check(self, grid: tuple[int, int]) -> None:
        assert tuple(grid) == self.grid, f"a grid of {grid} is not the merged one, {self.grid}"


def frame_of(
    crop: tuple[int, int], canvas: tuple[int, int], grid: tuple[int, int], tiling: Tiling | None
) -> tuple[Frame, tuple[int, int]]:
    """Give the frame of a crop and the grid that its tokens come in.

    canvas, grid: of the backbone. Tiled where either side of the crop is longer than the window.

    Raises InvalidInput where the crop takes too many windows.
    """
    if tiling is None or max(crop) <= tiling.window_px:
        return Letterbox.fit(crop, canvas), grid
    tiled = TiledFrame.fit(crop, canvas, grid, tiling)
    return tiled, tiled.grid


def _window_count(side: int, tiling: Tiling) -> int:
    if side <= tiling.window_px:
        return 1
    return math.ceil((side - tiling.overlap_px) / (tiling.window_px - tiling.overlap_px))


def _axis(side: int, length: int, count: int, spans: SpanArray, on_content: IndexArray) -> TiledAxis:
    """Merge one side. length: of a window. spans: (R, 2) of a window's own rows, window px. on_content: the ones of
    them that are not on padding.
    """
    starts = np.rint(np.linspace(0, side - length, count)).astype(np.int64)
    own = [(token, *spans[token].tolist()) for token in on_content.tolist()]
    # Beyond the middle between two windows' centres, the next one sees every place more centrally.
    cuts = [*((starts[:-1] + starts[1:] + length) / 2).tolist(), math.inf]
    chosen: list[tuple[int, int]] = []
    seen_to = -math.inf
    for window, (start, cut) in enumerate(zip(starts.tolist(), cuts, strict=True)):
        for token, low, high in own:
            if start + low < cut - _EDGE_PX and start + high > seen_to + _EDGE_PX:
                chosen.append((window, token))
                seen_to = start + high
    windows, tokens = np.array(chosen, dtype=np.int64).T
    return TiledAxis(starts, windows, tokens, starts[windows][:, None] + spans[tokens])


def _places(side: int, axis: TiledAxis) -> FloatArray:
    centres = axis.centres
    places: FloatArray = np.interp(np.arange(side) + 0.5, centres, np.arange(len(centres))).astype(np.float32)
    return places


def _point(place: float, axis: TiledAxis) -> float:
    centres = axis.centres
    return float(np.interp(place, np.arange(len(centres)), centres))
