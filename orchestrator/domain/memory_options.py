"""How a memory bank's features and scores are made: a part of the bank, so that verdicts are made as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScoreRule = Literal["percentile", "mean_top1", "max", "reweighted"]
"""From patch distances to the image score: the wire's percentile of the map, the mean of the top 1 % of the patches,
the maximum patch, or the maximum re-weighted by its neighbourhood."""

Augmentation = Literal["none", "flips", "rotations", "rotations_flips"]
"""What else of a good photograph enters the bank: mirror images, quarter turns, both."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Windows over a large crop. window_px: side, crop px. overlap_px: shared by neighbours, less than the side."""

    window_px: int
    overlap_px: int


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """One choice of every quality option.

    foreground: whether patches of the background, told by the first principal component, count for nothing.
    version: of the rules behind these names; a bank of another version is fitted anew.
    """

    augmentation: Augmentation = "none"
    foreground: bool = False
    tiling: Tiling | None = None
    score_rule: ScoreRule = "percentile"
    version: int = 1
