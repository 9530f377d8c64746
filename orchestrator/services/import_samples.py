"""Importing photographs: decoded once as proof, stored unchanged with all that their sidecars say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.identity import Part, normalise_recipe
from orchestrator.domain.samples import Label, NewSample, sample_shape
from orchestrator.domain.shapes import parse_shape
from orchestrator.errors import InvalidInput, MmPerPxMismatch, NotFound, PatchlightError, TooLarge
from orchestrator.features.preprocess import ImageLimits, decode_image
from orchestrator.services.commit import Committer
from orchestrator.services.datasets import parse_metas
from orchestrator.services.import_report import ImportLine, Outcome, readable
from orchestrator.services.import_scales import ImportScales
from orchestrator.services.legacy_layouts import SampleFolder
from orchestrator.storage.datasets import DatasetStore

BATCH = 8
"""Photographs held in memory and committed together."""

_OURS = ("role_id", "roi_id", "recipe_id", "label", "sha256")


@dataclass(frozen=True, slots=True)
class _Read:
    path: str
    sample: NewSample
    mm_per_px: float | None
    notes: tuple[str, ...]


class SampleImport:
    """Stores the photographs of found folders."""

    def __init__(
        self,
        datasets: DatasetStore,
        committer: Committer,
        scales: ImportScales,
        limits: ImageLimits,
        *,
        dry_run: bool,
    ) -> None:
        self._datasets = datasets
        self._committer = committer
        self._scales = scales
        self._limits = limits
        self._dry_run = dry_run
        self._seen: dict[tuple[Part, Label], set[str]] = {}
        self.ok_digests: dict[Part, list[str]] = {}
        """What an old bank of the same part may have been fitted from."""

    def run(self, found: SampleFolder) -> Iterator[ImportLine]:
        """Import a folder; one line for each file.

        Raises StoreUnavailable; what is committed by then is whole.
        """
        try:
            part = Part.of(normalise_recipe(found.recipe_id), found.role_id, found.roi_id)
        except InvalidInput as error:
            yield from (_line(found, name, "refused", error.message) for name in found.files)
            return
        batch: list[_Read] = []
        for name in found.files:
            try:
                batch.append(self._read(found, part, name))
            except MmPerPxMismatch as error:
                yield _line(found, name, "conflict", error.message)
            except PatchlightError as error:
                yield _line(found, name, "refused", error.message)
            if len(batch) == BATCH:
                yield from self._store(part, found.label, batch)
                batch = []
        yield from self._store(part, found.label, batch)
        used = {_stem(name) for name in found.files}
        for name in found.sidecars:
            if _stem(name) not in used:
                path = readable(str(found.store.path(f"{found.folder}/{name}")))
                yield ImportLine("sidecar", "skipped", path, "belongs to no photograph")

    def _read(self, found: SampleFolder, part: Part, name: str) -> _Read:
        key, shown = f"{found.folder}/{name}", readable(name)
        stat = found.store.etag(key)
        if stat is not None and stat[2] > self._limits.max_bytes:
            raise TooLarge(f"{shown}: has {stat[2]} bytes; at most {self._limits.max_bytes} are accepted.")
        data = found.store.read(key)
        decoded = decode_image(data, self._limits, shown)
        digest = hashlib.sha256(data).hexdigest()
        meta, notes = _sidecar(found, name)
        own = _own_scale(meta, notes)
        # As for an upload: a photograph that names no scale has its recipe's.
        scales = (own, found.mm_per_px, self._scales.known(part.recipe_id))
        scale = next((value for value in scales if value is not None), None)
        if scale is not None:
            meta["mm_per_px"] = scale
        _take_shape(meta, (decoded.pixels.shape[0], decoded.pixels.shape[1]), shown)
        ours = (part.role_id, part.roi_id, part.recipe_id, found.label, digest)
        for field, value in zip(_OURS, ours, strict=True):
            if meta.get(field, value) != value:
                meta[f"imported_{field}"] = meta[field]
        path = readable(str(found.store.path(key)))
        meta = {"source": "import", **meta, "imported_from": path}
        if scale is not None:
            self._scales.admit(part.recipe_id, scale)
        sample = NewSample(data, digest, decoded.image_format, meta, shown)
        return _Read(path, sample, scale, tuple(notes))

    def _store(self, part: Part, label: Label, batch: Sequence[_Read]) -> Iterator[ImportLine]:
        if not batch:
            return
        if label == "ok":
            self.ok_digests.setdefault(part, []).extend(read.sample.sha256 for read in batch)
        if self._dry_run:
            yield from (self._would_store(part, label, read) for read in batch)
            return
        scale = next((read.mm_per_px for read in batch if read.mm_per_px is not None), None)
        stored = self._committer.samples(part, label, [read.sample for read in batch], scale)
        for read, sample in zip(batch, stored, strict=True):
            outcome: Outcome = "imported" if sample.added else "known"
            yield ImportLine("sample", outcome, read.path, "; ".join((f"is {sample.name}", *read.notes)))

    def _would_store(self, part: Part, label: Label, read: _Read) -> ImportLine:
        seen = self._seen.setdefault((part, label), set())
        digest = read.sample.sha256
        known = digest in seen or any(
            self._digest(part, label, name) == digest
            for name in self._datasets.listing(part, label).files
            if digest[:8] in name
        )
        seen.add(digest)
        outcome: Outcome = "known" if known else "imported"
        return ImportLine("sample", outcome, read.path, "; ".join((f"goes to {part.label}", *read.notes)))

    def _digest(self, part: Part, label: Label, name: str) -> str | None:
        try:
            return hashlib.sha256(self._datasets.read(part, label, name)).hexdigest()
        except NotFound:
            return None


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _line(found: SampleFolder, name: str, outcome: Outcome, sentence: str) -> ImportLine:
    path = readable(str(found.store.path(f"{found.folder}/{name}")))
    return ImportLine("sample", outcome, path, readable(sentence))


def _sidecar(found: SampleFolder, name: str) -> tuple[dict[str, Any], list[str]]:
    beside = next((s for s in found.sidecars if _stem(s) == _stem(name)), None)
    if beside is None:
        return {}, ["has no sidecar"]
    data = found.store.read(f"{found.folder}/{beside}")
    try:
        # .NET writes byte-order marks.
        return parse_metas([data.decode(json.detect_encoding(data))])[0], []
    except (InvalidInput, UnicodeDecodeError):
        return {}, ["its sidecar cannot be read and is left behind"]


def _own_scale(meta: dict[str, Any], notes: list[str]) -> float | None:
    value = meta.pop("mm_per_px", None)
    if value is None:
        return None
    try:
        # The published client reads and may write numbers as texts.
        scale = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        scale = math.nan
    if math.isfinite(scale) and scale > 0:
        return scale
    meta["imported_mm_per_px"] = value
    notes.append(f"its mm_per_px {value!r:.40} is no scale and is set aside")
    return None


def _take_shape(meta: dict[str, Any], size: tuple[int, int], name: str) -> None:
    shape = sample_shape(meta)
    if shape is None:
        # The second generation's name for it.
        shape = meta.get("shape")
        if not isinstance(shape, dict):
            return
        meta["shape_json"] = shape
    if not isinstance(shape, str | dict):
        raise InvalidInput(f"{name}: shape_json must be JSON text or an object.")
    try:
        parse_shape(shape, size)
    except InvalidInput as error:
        # Stored, it would fail every fit from the dataset; without its ROI, it would train on the background.
        raise InvalidInput(f"{name}: its ROI cannot be used: {error.message}.") from error
