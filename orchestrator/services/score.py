"""Scores one embedded photograph against one memory bank: the numbers that verdicts and thresholds share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric
from orchestrator.patchcore.scoring import anomaly_map, image_score
from orchestrator.patchcore.search import ExactSearch, NeighborSearch
from orchestrator.services.embed import Embedded


@dataclass(frozen=True, slots=True)
class Scoring:
    """The deployment's rules. blur_sigma in crop px."""

    distance: Metric
    blur_sigma: float

    def search(self, memory: MemoryBank) -> NeighborSearch:
        """Make a bank searchable."""
        return ExactSearch(memory, self.distance)


@dataclass(frozen=True, slots=True, eq=False)
class PatchDistances:
    """Every patch's nearest neighbour.

    distances: (R, C) float32, 0 where a patch does not count. rows: (R, C) int64 bank rows, -1 where it does not.
    """

    distances: FloatArray
    rows: IndexArray


def patch_distances(photograph: Embedded, search: NeighborSearch) -> PatchDistances:
    """Search the bank for every patch of the photograph that counts."""
    distances = np.zeros(photograph.patches.shape, dtype=np.float32)
    rows = np.full(photograph.patches.shape, -1, dtype=np.int64)
    distances[photograph.patches], rows[photograph.patches] = search.nearest(photograph.queries)
    return PatchDistances(distances, rows)


def crop_map(found: PatchDistances, photograph: Embedded, scoring: Scoring) -> FloatArray:
    """Draw patch distances in the crop's own frame: (H, W) float32."""
    return anomaly_map(found.distances, photograph.patches, photograph.box, sigma=scoring.blur_sigma)


def score_against(photograph: Embedded, search: NeighborSearch, scoring: Scoring, percentile: float) -> float:
    """Give the image score."""
    drawn = crop_map(patch_distances(photograph, search), photograph, scoring)
    return image_score(drawn, photograph.mask, percentile)
