"""Scores one embedded photograph against one memory bank: the numbers that verdicts and thresholds share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.domain.arrays import FloatArray, MaskArray
from orchestrator.domain.letterbox import Letterbox
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, nearest
from orchestrator.patchcore.scoring import anomaly_map, image_score
from orchestrator.services.embed import Embedded


@dataclass(frozen=True, slots=True)
class Scoring:
    """The deployment's rules. blur_sigma in crop px."""

    distance: Metric
    blur_sigma: float


def patch_distances(photograph: Embedded, memory: MemoryBank, scoring: Scoring) -> FloatArray:
    """Search the bank for every patch of the photograph: (R, C) float32, zero where a patch does not count."""
    distances = np.zeros(photograph.patches.shape, dtype=np.float32)
    distances[photograph.patches], _ = nearest(photograph.queries, memory, metric=scoring.distance)
    return distances


def crop_map(distances: FloatArray, patches: MaskArray, box: Letterbox, scoring: Scoring) -> FloatArray:
    """Draw patch distances in the crop's own frame: (H, W) float32."""
    return anomaly_map(distances, patches, box, sigma=scoring.blur_sigma)


def score_against(photograph: Embedded, memory: MemoryBank, scoring: Scoring, percentile: float) -> float:
    """Give the image score."""
    distances = patch_distances(photograph, memory, scoring)
    drawn = crop_map(distances, photograph.patches, photograph.box, scoring)
    return image_score(drawn, photograph.mask, percentile)
