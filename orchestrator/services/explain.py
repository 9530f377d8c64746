"""Why a photograph scores as it does: its highest-scoring patch, and the stored patch that is most like it.

Knows patch distances and where a bank's rows came from; draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.frame import patch_in_crop
from orchestrator.domain.identity import Part
from orchestrator.domain.tiles import frame_of
from orchestrator.errors import InvalidImage, NotFound, TooLarge
from orchestrator.features.preprocess import DecodedImage, ImageLimits, decode_image
from orchestrator.patchcore.closest import closest_row
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.patchcore.neighbors import Metric
from orchestrator.services.banks import LoadedBank
from orchestrator.services.embed import Embedded
from orchestrator.services.score import PatchDistances
from orchestrator.storage.datasets import DatasetStore

Patch = tuple[int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A stored patch. sha256: of its sample's bytes. patch: (row, column) on the token grid.

    sample: the stored name, None where the photograph is no longer stored. point: the patch's centre (x, y) in that
    crop, px, covers: what it covers, (left, top, right, bottom); None where the photograph can no longer be read.
    """

    sha256: str
    patch: Patch
    sample: str | None
    point: Point | None
    covers: Box | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The patch with the largest distance, before the map is drawn and blurred.

    patch: (row, column). point: its centre (x, y) in the crop, px. covers: what it covers, (left, top, right, bottom).
    distance: to the nearest bank row. nearest: None
    where the bank does not know what its rows came from.
    """

    patch: Patch
    point: Point
    covers: Box
    distance: float
    nearest: Nearest | None


class Explainer:
    """Names the patches behind a score."""

    def __init__(self, datasets: DatasetStore, limits: ImageLimits, metric: Metric) -> None:
        self._datasets = datasets
        self.limits = limits
        self._metric = metric

    def explain(
        self, part: Part, found: PatchDistances, photograph: Embedded, bank: LoadedBank, spec: BackboneSpec
    ) -> Explanation:
        """Explain one photograph's score; of equal distances the first patch, row-major.

        Raises StoreUnavailable.
        """
        grid = photograph.patches.shape[0], photograph.patches.shape[1]
        # A patch that does not count has no row, and must not win where every distance is 0.
        index = int(np.where(found.rows >= 0, found.distances, -1).argmax())
        row_of, column_of = divmod(index, grid[1])
        if photograph.has_foreground is False:
            # Compared with the rows of the part alone: any row of the bank would be another answer.
            distance, row = float(found.distances.flat[index]), int(found.rows.flat[index])
        else:
            query = l2_normalise(photograph.tokens[index : index + 1])[0]
            distance, row = closest_row(query, bank.search.memory, self._metric)
        nearest = self._nearest(part, bank.record, row, spec)
        point = photograph.box.grid_to_crop(row_of, column_of, grid)
        covers = patch_in_crop(photograph.box, (row_of, column_of), grid)
        return Explanation((row_of, column_of), point, covers, distance, nearest)

    def photograph(self, part: Part, sha256: str) -> tuple[str, DecodedImage | None]:
        """Give a stored OK photograph by its digest: its name, and its pixels if they can still be decoded.

        Raises NotFound, StoreUnavailable.
        """
        name, data = self._datasets.find(part, "ok", sha256)
        try:
            return name, decode_image(data, self.limits, name)
        except (InvalidImage, TooLarge):
            # Stored under other limits, or by another server: the answer about the part still stands.
            return name, None

    def _nearest(self, part: Part, record: BankRecord, row: int, spec: BackboneSpec) -> Nearest | None:
        if len(record.row_sample) == 0:
            return None
        sha256 = record.metadata.sample_sha256[int(record.row_sample[row])]
        patch = divmod(int(record.row_patch[row]), record.grid[1])
        try:
            name, decoded = self.photograph(part, sha256)
        except NotFound:
            return Nearest(sha256, patch, None, None, None)
        if decoded is None:
            return Nearest(sha256, patch, name, None, None)
        size = decoded.pixels.shape[0], decoded.pixels.shape[1]
        frame, grid = frame_of(size, spec.input_size, spec.grid, record.metadata.options.tiling)
        point = frame.grid_to_crop(patch[0], patch[1], grid)
        return Nearest(sha256, patch, name, point, patch_in_crop(frame, patch, grid))
