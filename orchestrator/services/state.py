"""What is stored for a target, and what the deployment is doing; loads no model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from orchestrator.domain.bank import BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target, split_pair
from orchestrator.domain.samples import Label
from orchestrator.errors import (
    FeatureContractBroken,
    FeaturesUnavailable,
    NotFound,
)
from orchestrator.features.base import FeatureExtractor
from orchestrator.patchcore.search import IndexKind
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks
from orchestrator.services.datasets import Datasets
from orchestrator.storage.activity import Activity, ActivityStore
from orchestrator.storage.banks import BankStore
from orchestrator.storage.datasets import Listing
from orchestrator.storage.files import FileStore
from orchestrator.storage.recipes import RecipeStore

MAX_ROLES = 1000


@dataclass(frozen=True, slots=True)
class TargetState:
    """A target at a glance. bank, calibration: None where there is none in force. index: how the bank is searched."""

    bank: BankRecord | None
    index: IndexKind | None
    calibration: Calibration | None
    calib_stale: bool
    mm_per_px: float | None
    datasets: dict[Label, Listing]


@dataclass(frozen=True, slots=True)
class Health:
    """The feature model that answers now."""

    backbone: str
    model_version: str
    reason: str | None
    backend: str
    uptime_s: float
    roles: list[str]


class States:
    """Reads states."""

    def __init__(
        self,
        store: FileStore,
        extractor: FeatureExtractor,
        backbones: Backbones,
        banks: Banks,
        bank_store: BankStore,
        recipes: RecipeStore,
        datasets: Datasets,
        activity: ActivityStore,
    ) -> None:
        self._store = store
        self._extractor = extractor
        self._backbones = backbones
        self._banks = banks
        self._bank_store = bank_store
        self._recipes = recipes
        self._datasets = datasets
        self._activity = activity
        self._started = time.monotonic()

    def target(self, target: Target) -> TargetState:
        """Describe a target, fitted or not.

        Raises StoreCorrupt, StoreUnavailable.
        """
        bank, calibration = self._banks.find_snapshot(target)
        return TargetState(
            bank=bank.record if bank is not None else None,
            index=bank.search.kind if bank is not None else None,
            calibration=calibration,
            calib_stale=calibration is None and self._banks.is_stale(target, bank),
            mm_per_px=self._recipes.mm_per_px(target.part.recipe_id),
            datasets=self._datasets.listing(target.part),
        )

    def mm_per_px(self, recipe_id: str) -> float | None:
        """Give a recipe's locked scale; None where it has none yet."""
        return self._recipes.mm_per_px(recipe_id)

    def activity(self) -> Activity:
        """Tell what fits are doing, over all processes."""
        return self._activity.read()

    def backbone_label(self) -> tuple[str | None, str | None]:
        """Give the backbone in force and its version label; None where there is none."""
        with contextlib.suppress(FeaturesUnavailable, FeatureContractBroken, NotFound):
            spec = self._backbones.current()
            return spec.name, spec.label
        return None, None

    def check_store(self) -> None:
        """Prove that the store can be written.

        Raises StoreUnavailable.
        """
        self._store.check()

    async def health(self, recipe_id: str) -> Health:
        """Tell which feature model answers.

        Raises FeaturesUnavailable where none does.
        """
        spec = await asyncio.to_thread(self._backbones.current)
        if not await self._extractor.is_ready(spec):
            raise FeaturesUnavailable(
                f"the feature model {spec.label} is not ready on {self._extractor.backend}; try again shortly."
            )
        roles = await asyncio.to_thread(self._roles, recipe_id)
        uptime_s = time.monotonic() - self._started
        reason = await asyncio.to_thread(lambda: self._backbones.reason)
        return Health(spec.name, spec.label, reason, self._extractor.backend, uptime_s, roles)

    def _roles(self, recipe_id: str) -> list[str]:
        pairs = (split_pair(pair) for pair in self._bank_store.fitted_pairs(recipe_id)[:MAX_ROLES])
        return sorted(f"{role}/{roi}" for role, roi in filter(None, pairs))
