"""The bank and the calibration in force for a target, read from the store on each request.

A process keeps what it has read, keyed by the stored file's identity, so another worker's fit is seen at once.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog

from orchestrator.domain.bank import BankIndex, BankRecord
from orchestrator.domain.calibration import Calibration, FalseReject
from orchestrator.domain.identity import Target
from orchestrator.errors import BackboneMismatch, MemoryNotFitted, NotFound, StoreCorrupt
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.score import Scoring
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore, decode_calibration
from orchestrator.storage.files import ETag
from orchestrator.storage.legacy import LegacyBanks

if TYPE_CHECKING:
    from orchestrator.patchcore.inverted_file import InvertedFile

_log = structlog.get_logger()

CACHE_BYTES = 1 << 30
NOT_FITTED = (
    "Memoria no encontrada (memory not fitted) for role_id={role!r}, roi_id={roi!r}, model_key={key!r}, "
    "recipe_id={recipe!r}. Ejecuta /fit_ok antes: run /fit_ok first."
)


@dataclass(frozen=True, slots=True)
class LoadedBank:
    """A stored bank and its searchable form.

    index_etag: of the index files it was opened with, None without. rows_sha256: of a legacy bank's rows, which no
    generation tells apart from those of the file that replaces it; None for a bank of ours.
    """

    record: BankRecord
    search: NeighborSearch
    index_etag: object = None
    rows_sha256: str | None = None

    @property
    def generation(self) -> int:
        """The number of the fit that made it."""
        return self.record.metadata.generation


class Banks:
    """Reads banks and calibrations; remembers the most recently used banks, 1 GiB at most."""

    def __init__(
        self, banks: BankStore, legacy: LegacyBanks, calibrations: CalibrationStore, scoring: Scoring
    ) -> None:
        self._scoring = scoring
        self._banks = banks
        self._legacy = legacy
        self._calibrations = calibrations
        self._cache: OrderedDict[Target, tuple[ETag, LoadedBank]] = OrderedDict()
        self._guard = threading.Lock()

    def load(self, target: Target) -> LoadedBank:
        """Give the current bank.

        Raises MemoryNotFitted, StoreCorrupt, StoreUnavailable.
        """
        etag = self._banks.etag(target) or self._legacy.etag(target)
        if etag is None:
            raise not_fitted(target)
        with self._guard:
            cached = self._cache.get(target)
            if cached is not None:
                self._cache.move_to_end(target)
        if cached is not None and cached[0] == etag and self._has_its_index(target, cached[1]):
            return cached[1]
        loaded = self._read(target)
        with self._guard:
            # A commit between the two reads leaves an etag that is older than the bank: the next request reads again.
            self._cache[target] = (etag, loaded)
            self._cache.move_to_end(target)
            self._evict()
        return loaded

    def find(self, target: Target) -> LoadedBank | None:
        """Give the current bank, or None."""
        try:
            return self.load(target)
        except MemoryNotFitted:
            return None

    def in_force(self, target: Target, bank: LoadedBank) -> Calibration | None:
        """Give the calibration of this very bank generation; a threshold of zero or less is none."""
        if bank.record.metadata.source == "legacy":
            return self._legacy_calibration(target)
        calibration = self._bound(target, bank)
        return calibration if calibration is not None and calibration.threshold > 0 else None

    def snapshot(self, target: Target) -> tuple[LoadedBank, Calibration | None]:
        """Give a bank and its calibration that belong together, whatever commits in between.

        Raises as `load`.
        """
        for _ in range(8):
            bank = self.load(target)
            calibration = self.in_force(target, bank)
            current = self._banks.etag(target)
            if calibration is not None or current is None or current == self._seen(target):
                break
        return bank, calibration

    def find_snapshot(self, target: Target) -> tuple[LoadedBank | None, Calibration | None]:
        """Give a bank and its calibration that belong together, or None for both."""
        try:
            return self.snapshot(target)
        except MemoryNotFitted:
            return None, None

    def is_stale(self, target: Target, bank: LoadedBank | None) -> bool:
        """Tell whether a calibration is stored that belongs to another bank than the current one."""
        if self._calibrations.raw(target) is None:
            return False
        if bank is not None and bank.record.metadata.source == "legacy":
            return self._legacy_calibration(target) is None
        return bank is None or self._bound(target, bank) is None

    def of_generation(self, target: Target, bank: LoadedBank) -> Calibration | None:
        """Give the calibration of this bank generation, also one that lost its index or its distance and is stale."""
        metadata = bank.record.metadata
        candidates = (
            self._calibrations.read(target),
            # Committed with the bank itself, so that no reader sees the one without the other.
            decode_calibration(metadata.extra.get("calibration")),
        )
        own = (metadata.generation, metadata.fingerprint)
        return next((c for c in candidates if c and (c.bank_generation, c.fingerprint) == own), None)

    def _bound(self, target: Target, bank: LoadedBank) -> Calibration | None:
        found = self.of_generation(target, bank)
        if found is None or found.index_sha256 != bank.search.index_sha256:
            return None
        return found if self._compares(found) else None

    def _compares(self, calibration: Calibration) -> bool:
        return calibration.is_scored_by(self._scoring.distance, self._scoring.blur_sigma)

    def _has_its_index(self, target: Target, bank: LoadedBank) -> bool:
        # On every request, as the bank itself: a process must not go on with an index that others have lost.
        return bank.index_etag is None or bank.index_etag == self._banks.index_etag(target)

    def _seen(self, target: Target) -> ETag | None:
        with self._guard:
            cached = self._cache.get(target)
            return cached[0] if cached is not None else None

    def _read(self, target: Target) -> LoadedBank:
        try:
            record = self._banks.read(target)
        except NotFound:
            try:
                record = self._legacy.read(target)
            except NotFound as error:
                raise not_fitted(target) from error
        memory = memory_of(record)
        described = record.metadata.index
        if described is None or self._scoring.search_device != "cpu":
            return LoadedBank(record, self._scoring.search(memory), rows_sha256=_rows_sha256(record))
        etag = self._banks.index_etag(target)
        try:
            search = self._scoring.search(memory, self._index(target, described))
        except StoreCorrupt as error:
            # Exact instead, and the threshold goes stale with the index that it came through.
            hint = "every row is compared; calibrate again, or fit for a new index"
            _log.warning("index.lost", target=target.stem, error=error.message, hint=hint)
            search = self._scoring.search(memory)
        return LoadedBank(record, search, etag)

    def _index(self, target: Target, described: BankIndex) -> InvertedFile:
        from orchestrator.patchcore.inverted_file import InvertedFile

        for data in self._banks.indexes(target):
            index = InvertedFile(data, described.nlist, described.nprobe)
            if index.sha256 == described.sha256:
                return index
        raise StoreCorrupt("no index file has the bank's checksum")

    def _evict(self) -> None:
        def size() -> int:
            return sum(loaded.search.nbytes for _, loaded in self._cache.values())

        while len(self._cache) > 1 and size() > CACHE_BYTES:
            self._cache.popitem(last=False)

    def _legacy_calibration(self, target: Target) -> Calibration | None:
        content = self._calibrations.raw(target) or self._legacy.calibration(target)
        ours = decode_calibration(content)
        if ours is not None:
            # Calibrated here since; a legacy bank is of generation 0.
            return ours if ours.bank_generation == 0 and ours.threshold > 0 and self._compares(ours) else None
        threshold = (content or {}).get("threshold")
        if (
            not isinstance(threshold, int | float)
            or isinstance(threshold, bool)
            or not 0 < threshold < float("inf")
        ):
            return None

        def number(key: str, default: float) -> float:
            value = (content or {}).get(key)
            return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

        return Calibration(
            bank_generation=0,
            fingerprint=None,
            method="percentile",
            threshold=float(threshold),
            score_percentile=min(100.0, max(1e-6, number("score_percentile", 99.0))),
            area_mm2_thr=max(0.0, number("area_mm2_thr", 1.0)),
            mm_per_px=max(1e-9, number("mm_per_px", 0.2)),
            ok_mean=number("ok_mean", 0.0),
            ng_mean=number("ng_mean", 0.0),
            p99_ok=number("p99_ok", float(threshold)),
            p5_ng=None,
            samples_ok=0,
            samples_ng=0,
            calibrated_at=str((content or {}).get("calibrated_at", "")),
            false_reject=FalseReject(1.0, 1.0, 0.95, 0),
        )


def _rows_sha256(record: BankRecord) -> str | None:
    if record.metadata.source != "legacy":
        return None
    return hashlib.sha256(np.ascontiguousarray(record.embeddings).data).hexdigest()


def memory_of(record: BankRecord) -> MemoryBank:
    """Give the rows as they are searched: float16 storage leaves unit rows off by up to 1e-3."""
    return MemoryBank(l2_normalise(record.embeddings), record.grid)


def not_fitted(target: Target) -> MemoryNotFitted:
    """Phrase a missing memory so that both generations of clients recognise it."""
    part = target.part
    return MemoryNotFitted(
        NOT_FITTED.format(role=part.role_id, roi=part.roi_id, key=target.model_key, recipe=part.recipe_id)
    )


def check_grid(bank: LoadedBank, grid: tuple[int, int]) -> None:
    """Compare a bank's token grid with a backbone's; a legacy bank may not know its own, a tiled one has the crop's.

    Raises BackboneMismatch.
    """
    known = bank.record.grid
    if bank.record.metadata.options.tiling is None and known not in ((1, 1), grid):
        raise BackboneMismatch(f"Token grid mismatch: got {grid}, expected {known}. Run /fit_ok again.")
