"""Reads stored photographs as something to embed: bytes, digest, own ROI, own scale."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from orchestrator.domain.identity import Part
from orchestrator.domain.samples import Label, sample_shape
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.services.embed import Photograph, RawShape
from orchestrator.storage.datasets import DatasetStore

_DIGEST8 = re.compile(r"_\d{8}_\d{9}_([0-9a-f]{8})\.")


@dataclass(frozen=True, slots=True)
class ReadSample:
    """One stored photograph. mm_per_px: from its sidecar, None where it has none."""

    photograph: Photograph
    filename: str
    sha256: str
    mm_per_px: float | None


class SampleReader:
    """Reads samples with what their sidecars say."""

    def __init__(self, datasets: DatasetStore) -> None:
        self._datasets = datasets

    def names(self, part: Part, label: Label) -> tuple[str, ...]:
        """List the stored photographs, oldest first."""
        return self._datasets.listing(part, label).files

    def all(self, part: Part, label: Label, shape: RawShape = None) -> Iterator[ReadSample]:
        """Read every photograph of a label; one that is deleted meanwhile is left out.

        shape: stands above the samples' own ROI. Raises InvalidInput for an ROI that is neither text nor object.
        """
        for filename in self.names(part, label):
            try:
                yield self.one(part, label, filename, shape)
            except NotFound:
                continue

    def of(
        self, part: Part, label: Label, digests: Collection[str], shape: RawShape = None
    ) -> Iterator[ReadSample]:
        """Read the photographs of a label that have these digests, each once. See `all`.

        A name that holds another digest saves the reading.
        """
        left, short = set(digests), {d[:8] for d in digests}
        for filename in self.names(part, label):
            named = _DIGEST8.search(filename)
            if named is not None and named[1] not in short:
                continue
            try:
                sample = self.one(part, label, filename, shape)
            except NotFound:
                continue
            if sample.sha256 in left:
                left.remove(sample.sha256)
                yield sample

    def one(self, part: Part, label: Label, filename: str, shape: RawShape = None) -> ReadSample:
        """Read one photograph.

        Raises NotFound, InvalidInput.
        """
        data = self._datasets.read(part, label, filename)
        meta = self._datasets.meta(part, label, filename)
        own = sample_shape(meta) if shape is None else shape
        if not (own is None or isinstance(own, str | dict)):
            raise InvalidInput(
                f"{filename}: shape_json must be JSON text or an object; got {json.dumps(own)[:40]}."
            )
        scale = meta.get("mm_per_px")
        usable = (
            isinstance(scale, int | float)
            and not isinstance(scale, bool)
            and math.isfinite(scale)
            and scale > 0
        )
        return ReadSample(
            Photograph(data, filename, own),
            filename,
            hashlib.sha256(data).hexdigest(),
            float(scale) if usable and scale is not None else None,
        )
