"""Scores one embedded photograph against one memory bank: the numbers that verdicts and thresholds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, nearest
from orchestrator.patchcore.score_rules import rule_score
from orchestrator.patchcore.scoring import anomaly_map
from orchestrator.patchcore.search import ExactSearch, NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.foreground import keep_foreground

if TYPE_CHECKING:
    from orchestrator.patchcore.inverted_file import InvertedFile

SearchDevice = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The deployment's rules. blur_sigma in crop px.

    search_device: what searches. index_min_rows: a bank of more rows than this gets an inverted file when it is fitted;
    0 gives none one. A GPU compares every row of any bank.
    """

    distance: Metric
    blur_sigma: float
    search_device: SearchDevice = "cpu"
    index_min_rows: int = 0

    def search(self, memory: MemoryBank, index: InvertedFile | None = None) -> NeighborSearch:
        """Make a bank searchable. index: the bank's own, looked into instead of comparing every row.

        Raises StoreCorrupt where the index is none of this bank, GpuUnavailable.
        """
        # Imported here: FAISS is a large library, and most deployments never need it.
        if self.search_device == "gpu":
            from orchestrator.patchcore.gpu_search import GpuFlatSearch

            return GpuFlatSearch(memory, self.distance)
        if index is not None:
            from orchestrator.patchcore.inverted_file import InvertedFileSearch

            return InvertedFileSearch(memory, index, self.distance)
        return ExactSearch(memory, self.distance)

    def is_indexed(self, rows: int) -> bool:
        """Tell whether a bank of so many rows gets an index when it is fitted."""
        return self.search_device == "cpu" and 0 < self.index_min_rows < rows

    def index_of(self, memory: MemoryBank) -> InvertedFile:
        """Build the index that a large bank gets when it is fitted."""
        from orchestrator.patchcore.inverted_file import build_inverted_file

        return build_inverted_file(memory)

    def search_like(self, model: NeighborSearch, memory: MemoryBank) -> NeighborSearch:
        """Make a bank searchable by the same kind of index as another, whatever its size: scores then compare."""
        if model.kind != "ivf":
            return self.search(memory)
        return self.search(memory, self.index_of(memory))


@dataclass(frozen=True, slots=True, eq=False)
class PatchDistances:
    """Every patch's nearest neighbour.

    distances: (R, C) float32, 0 where a patch does not count. rows: (R, C) int64 bank rows, -1 where it does not.
    queries: (n, D) float32, the patches that count, as they were searched.
    """

    distances: FloatArray
    rows: IndexArray
    queries: FloatArray


def patch_distances(photograph: Embedded, search: NeighborSearch) -> PatchDistances:
    """Search the bank for every patch of the photograph that counts."""
    return _laid_out(photograph, *search.nearest(photograph.queries))


def part_distances(
    photograph: Embedded, search: NeighborSearch, axis: ForegroundAxis, scoring: Scoring
) -> PatchDistances:
    """Search only the bank's rows that show the part themselves, for every patch that counts.

    A bank of foregrounds holds their rims too, so the bare background is near to it: a photograph without the part
    would pass.
    """
    memory = search.memory
    shown = np.flatnonzero(memory.embeddings @ axis.direction > axis.cut)
    if len(shown) == 0:
        return patch_distances(photograph, search)
    part = MemoryBank(np.ascontiguousarray(memory.embeddings[shown]), memory.grid)
    # Not an ExactSearch: to look for a projection costs more than the one search of these rows.
    found, places = nearest(photograph.queries, part, metric=scoring.distance)
    return _laid_out(photograph, found, shown[places])


def _laid_out(photograph: Embedded, found: FloatArray, found_rows: IndexArray) -> PatchDistances:
    distances = np.zeros(photograph.patches.shape, dtype=np.float32)
    rows = np.full(photograph.patches.shape, -1, dtype=np.int64)
    distances[photograph.patches], rows[photograph.patches] = found, found_rows
    return PatchDistances(distances, rows, photograph.queries)


def measure(
    photograph: Embedded, search: NeighborSearch, scoring: Scoring, axis: ForegroundAxis | None
) -> tuple[Embedded, PatchDistances]:
    """Keep what counts of a photograph and search the bank for it. axis: of the bank, None where all counts."""
    counted = keep_foreground(photograph, axis)
    if axis is not None and not counted.has_foreground:
        return counted, part_distances(counted, search, axis, scoring)
    return counted, patch_distances(counted, search)


def crop_map(found: PatchDistances, photograph: Embedded, scoring: Scoring) -> FloatArray:
    """Draw patch distances in the crop's own frame: (H, W) float32."""
    return anomaly_map(found.distances, photograph.patches, photograph.box, sigma=scoring.blur_sigma)


def score_of(
    found: PatchDistances,
    drawn: FloatArray,
    photograph: Embedded,
    search: NeighborSearch,
    percentile: float,
    rule: ScoreRule,
) -> float:
    """Give the image score by the bank's rule. drawn: the crop's map. percentile: for the rule of that name alone.

    The map keeps the distances' unit whatever the rule, and regions are cut from it: a rule that scales, as the
    re-weighted maximum does, may pass a threshold where no region does, and the other way round.
    """
    return rule_score(
        rule,
        distances=found.distances,
        patches=photograph.patches,
        anomaly=drawn,
        mask=photograph.mask,
        percentile=percentile,
        queries=found.queries,
        rows=found.rows,
        memory=search.memory,
    )


def score_against(
    photograph: Embedded,
    search: NeighborSearch,
    scoring: Scoring,
    percentile: float,
    rule: ScoreRule,
    axis: ForegroundAxis | None,
) -> float:
    """Give the image score by the bank's rule, of what counts of a photograph. axis: the bank's foreground."""
    counted, found = measure(photograph, search, scoring, axis)
    return score_of(found, crop_map(found, counted, scoring), counted, search, percentile, rule)
