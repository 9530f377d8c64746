"""The one place where a bank, its samples, its scale lock and its calibration change: all or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from orchestrator.domain.bank import BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Part, Target
from orchestrator.domain.samples import Label, NewSample, StoredSample
from orchestrator.errors import Conflict, NotFound, PatchlightError, StoreCorrupt
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.recipes import RecipeStore

CALIBRATED_MEANWHILE = "calibrated_meanwhile"
REFITTED_MEANWHILE = "refitted_meanwhile"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Terms:
    """What a fit was computed from, and must still hold when it is committed.

    generation: of the bank that it continues; None where it replaces whatever there is. sources: names of the stored OK
    photographs it was computed from. leaving: the name of the OK photograph that goes with this commit.
    """

    generation: int | None = None
    sources: frozenset[str] = frozenset()
    leaving: str | None = None


class Committer:
    """Orders commits of a recipe across processes; readers never wait for it."""

    def __init__(
        self,
        store: FileStore,
        recipes: RecipeStore,
        banks: BankStore,
        calibrations: CalibrationStore,
        datasets: DatasetStore,
    ) -> None:
        self._store = store
        self._recipes = recipes
        self._banks = banks
        self._calibrations = calibrations
        self._datasets = datasets

    def fit(
        self,
        target: Target,
        record: BankRecord,
        posted: Sequence[NewSample],
        calibrate: Callable[[int], Calibration | None],
        *,
        before: Calibration | None = None,
        index: bytes | None = None,
        terms: Terms | None = None,
    ) -> tuple[BankRecord, Calibration | None, list[StoredSample]]:
        """Store the posted samples and replace the bank by its next generation.

        before: the calibration in force that the fit started from. terms: what it was computed from. index: the bytes
        of what `record.metadata.index` describes. record.metadata.generation is set here; `calibrate` gives the
        calibration of that generation, if there is one. It travels inside the bank too, so that no reader sees the new
        bank without it.

        Raises Conflict (CALIBRATED_MEANWHILE, REFITTED_MEANWHILE), MmPerPxMismatch, StoreUnavailable; nothing has
        changed then.
        """
        mm_per_px = record.metadata.mm_per_px
        with (
            self._recipe(target.part.recipe_id),
            self._scale(target.part.recipe_id, mm_per_px),
            contextlib.ExitStack() as undo,
        ):
            last = self.generation(target)
            self._check_terms(target, last, terms or Terms())
            self._check_calibration(target, last, before)
            # What this commit stages takes the place of what an interrupted one left there: the bank's only index.
            self._banks.settle_left_index(target)
            samples = self._datasets.add(target.part, "ok", posted)
            undo.callback(self._datasets.discard, target.part, samples)
            generation = last + 1
            calibration = calibrate(generation)
            extra: dict[str, Any] = dict(record.metadata.extra)
            if calibration is not None:
                extra["calibration"] = asdict(calibration)
            committed = replace(record, metadata=replace(record.metadata, generation=generation, extra=extra))
            if index is not None:
                self._banks.stage_index(target, index)
                undo.callback(self._banks.drop_staged_index, target)
            self._banks.write(target, committed)
            undo.pop_all()
            with _tolerated(target):
                if calibration is not None:
                    self._calibrations.write(target, calibration)
                self._describe(target, committed, calibration, is_fit=True)
            with _tolerated(target):
                self._banks.settle_index(target, has_index=index is not None)
            # Last, and under the same lock: what is interrupted here leaves a photograph that no bank holds.
            if terms is not None and terms.leaving is not None:
                self._let_go(target.part, terms.leaving)
        return committed, calibration, samples

    def calibrate(self, target: Target, calibration: Calibration, mm_per_px: float | None) -> None:
        """Put a calibration in force.

        Raises Conflict where the bank was refitted meanwhile, MmPerPxMismatch, StoreUnavailable.
        """
        recipe = target.part.recipe_id
        with self._recipe(recipe), self._scale(recipe, mm_per_px):
            if self.generation(target) != calibration.bank_generation:
                raise Conflict(
                    "the memory was refitted while it was being calibrated; calibrate again.",
                    code=REFITTED_MEANWHILE,
                )
            self._calibrations.write(target, calibration)
            with _tolerated(target), contextlib.suppress(NotFound):
                self._describe(target, self._banks.read(target), calibration, is_fit=False)

    def samples(
        self, part: Part, label: Label, samples: Sequence[NewSample], mm_per_px: float | None
    ) -> list[StoredSample]:
        """Store samples and lock the recipe's scale, if one is given.

        Raises MmPerPxMismatch, StoreUnavailable; nothing has changed then.
        """
        with self._recipe(part.recipe_id), self._scale(part.recipe_id, mm_per_px):
            return self._datasets.add(part, label, samples)

    def remove(self, target: Target, filename: str, generation: int) -> bool:
        """Remove an OK photograph that the bank of this generation does not hold; false where there was none.

        Raises Conflict (REFITTED_MEANWHILE) where another bank is current, which may hold it; StoreUnavailable.
        """
        with self._recipe(target.part.recipe_id):
            if self.generation(target) != generation:
                raise Conflict(
                    f"the memory was refitted while {filename[:255]!r} was looked for in it; send the removal again.",
                    code=REFITTED_MEANWHILE,
                )
            return self._datasets.remove(target.part, "ok", filename)

    def scale(self, recipe_id: str, mm_per_px: float) -> None:
        """Lock the recipe's scale, or compare with its lock.

        Raises MmPerPxMismatch.
        """
        if self._recipes.mm_per_px(recipe_id) is not None:
            self._recipes.check(recipe_id, mm_per_px)
            return
        with self._recipe(recipe_id):
            self._recipes.lock(recipe_id, mm_per_px)

    def locked_scale(self, recipe_id: str) -> float | None:
        """Give the recipe's locked scale; None where it has none yet."""
        return self._recipes.mm_per_px(recipe_id)

    def check_scale(self, recipe_id: str, mm_per_px: float) -> None:
        """Compare with the recipe's lock, if it has one; locks nothing.

        Raises MmPerPxMismatch.
        """
        self._recipes.check(recipe_id, mm_per_px)

    def generation(self, target: Target) -> int:
        """Give the last generation that was committed, 0 before the first; a lost bank leaves its number behind."""
        try:
            return self._banks.read(target).metadata.generation
        except (NotFound, StoreCorrupt):
            calibration = self._calibrations.read(target)
            return max(
                self._banks.described_generation(target), calibration.bank_generation if calibration else 0
            )

    def _recipe(self, recipe_id: str) -> contextlib.AbstractContextManager[None]:
        return self._store.lock(f"recipe-{recipe_id}")

    def _let_go(self, part: Part, name: str) -> None:
        try:
            self._datasets.remove(part, "ok", name)
        except PatchlightError as error:
            _log.warning("sample.not_removed", part=part.label, filename=name, error=error.message)

    @contextlib.contextmanager
    def _scale(self, recipe_id: str, mm_per_px: float | None) -> Iterator[None]:
        if mm_per_px is None:
            yield
            return
        was_locked = self._recipes.mm_per_px(recipe_id) is not None
        self._recipes.lock(recipe_id, mm_per_px)
        with contextlib.ExitStack() as undo:
            if not was_locked:
                undo.callback(self._recipes.unlock, recipe_id)
            yield
            undo.pop_all()

    def _describe(
        self, target: Target, record: BankRecord, calibration: Calibration | None, *, is_fit: bool
    ) -> None:
        glance = glance_at(target, record, calibration)
        self._banks.describe(target, glance, fit_line=glance if is_fit else None)

    def _check_calibration(self, target: Target, generation: int, before: Calibration | None) -> None:
        # One that was put in force while the fit computed was acknowledged: the fit must start from it instead.
        stored = self._calibrations.read(target)
        if stored is None or stored.bank_generation != generation or stored.threshold <= 0:
            return
        # Another fit's recalibration by the same rules is no news: this one makes its own from the stored samples.
        news = before is None or _rules(before) != _rules(stored)
        # A bank that cannot be read has none in force, and the fit that replaces it must not wait for it.
        if news and self._is_readable(target):
            raise Conflict(
                "the memory was calibrated while it was refitted; fit again.", code=CALIBRATED_MEANWHILE
            )

    def _is_readable(self, target: Target) -> bool:
        try:
            self._banks.read(target)
        except (NotFound, StoreCorrupt):
            return False
        return True

    def _check_terms(self, target: Target, last: int, terms: Terms) -> None:
        if terms.generation is not None and terms.generation != last:
            raise Conflict(
                "the memory was refitted while this fit was computed from it; send it again.",
                code=REFITTED_MEANWHILE,
            )
        gone = (
            terms.sources - set(self._datasets.listing(target.part, "ok").files) if terms.sources else set()
        )
        if gone:
            raise Conflict(
                f"{min(gone)} was removed while the memory was fitted from it; send the fit again.",
                code=REFITTED_MEANWHILE,
            )


@contextlib.contextmanager
def _tolerated(target: Target) -> Iterator[None]:
    # The bank is committed and carries its calibration: what lies beside it is a convenience.
    try:
        yield
    except PatchlightError as error:
        _log.warning("manifest.not_written", target=target.stem, error=error.message)


def glance_at(target: Target, record: BankRecord, calibration: Calibration | None) -> dict[str, Any]:
    """Describe a bank in a few lines, for people who look into the store."""
    metadata = record.metadata
    return {
        "role_id": target.part.role_id,
        "roi_id": target.part.roi_id,
        "recipe_id": target.part.recipe_id,
        "model_key": target.model_key,
        "bank_generation": metadata.generation,
        "model_version": metadata.model_version,
        "last_fit_at": metadata.fit_started_at,
        "fit_duration_s": metadata.fit_duration_s,
        "n_embeddings": metadata.n_embeddings,
        "coreset_size": len(record.embeddings),
        "token_shape": list(record.grid),
        "index": metadata.index.kind if metadata.index else "exact",
        "options": asdict(metadata.options),
        "mm_per_px": metadata.mm_per_px,
        "samples": len(metadata.sample_sha256),
        "last_calibration_at": calibration.calibrated_at if calibration else None,
        "threshold": calibration.threshold if calibration else None,
        "operator_last": (calibration.operator_id if calibration else None) or metadata.operator_id,
        "operator_id": metadata.operator_id,
        "notes": metadata.notes,
    }


def _rules(calibration: Calibration) -> tuple[object, ...]:
    return (
        calibration.rule,
        calibration.area_mm2_thr,
        calibration.mm_per_px,
        calibration.shape,
    )
