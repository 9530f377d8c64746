"""The composition root: settings to adapters to services; the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from orchestrator.domain.drift import DriftState, Rules
from orchestrator.features.base import FeatureExtractor
from orchestrator.features.deferred import DeferredExtractor
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.patchcore.neighbors import warm_up
from orchestrator.services.accumulate import Accumulator
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks
from orchestrator.services.calibrate import Calibrator
from orchestrator.services.commit import Committer
from orchestrator.services.datasets import Datasets
from orchestrator.services.drift import DriftMonitor
from orchestrator.services.embed import Embedder
from orchestrator.services.explain import Explainer
from orchestrator.services.fit import Fitter
from orchestrator.services.gate import FitGate
from orchestrator.services.import_legacy import LegacyImport
from orchestrator.services.inspect import Inspector
from orchestrator.services.lineage import Lineage
from orchestrator.services.pool import NumericsPool
from orchestrator.services.remove import Remover
from orchestrator.services.samples import SampleReader
from orchestrator.services.score import Scoring
from orchestrator.services.state import States
from orchestrator.services.succession import Succession
from orchestrator.services.tokens import SampleTokens
from orchestrator.services.turns import Turns
from orchestrator.services.verdict import Defaults
from orchestrator.settings import Settings
from orchestrator.storage.activity import ActivityStore
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.database import Database, embedded
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.legacy import LegacyBanks
from orchestrator.storage.recipes import RecipeStore
from orchestrator.storage.tokens import TokenStore
from orchestrator.storage.verdicts import VerdictLog


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a process serves with."""

    settings: Settings
    backbones: Backbones
    extractor: FeatureExtractor
    pool: NumericsPool
    fitter: Fitter
    accumulator: Accumulator
    remover: Remover
    calibrator: Calibrator
    inspector: Inspector
    explainer: Explainer
    datasets: Datasets
    samples: SampleReader
    states: States
    database: Database
    drift: DriftMonitor

    async def warm_up(self) -> None:
        """Compile the numerics that are compiled at their first use: seconds on a machine's first start.

        A light import leaves that to the first search.
        """
        if not self.settings.light_import:
            await self.pool.run(warm_up)

    async def close(self) -> None:
        """Let running work end and release everything, whatever of it fails."""
        async with AsyncExitStack() as last_first:
            last_first.callback(self.pool.close)
            last_first.push_async_callback(asyncio.to_thread, self.pool.stop)
            last_first.push_async_callback(self.database.close)
            last_first.push_async_callback(self.drift.close)
            last_first.push_async_callback(self.extractor.close)


def build_runtime(
    settings: Settings,
    *,
    extractor: FeatureExtractor | None = None,
    observe_drift: Callable[[DriftState], None] | None = None,
) -> Runtime:
    """Join everything; touches neither network nor model. Call it inside the event loop that serves.

    extractor: to serve with, in place of the one that the settings name. observe_drift: is told every drift state that
    changed.

    Raises GpuUnavailable where the settings ask for a GPU that cannot be searched on.
    """
    if settings.search_device == "gpu":
        from orchestrator.patchcore.gpu_search import require_gpu

        require_gpu()
    store = FileStore(settings.data_root)
    recipes_store = FileStore(settings.recipes_root)
    repository = ModelRepository(settings.model_repository)
    recipes, bank_store = RecipeStore(recipes_store), BankStore(recipes_store)
    calibrations, dataset_store = CalibrationStore(recipes_store), DatasetStore(store)
    activity = ActivityStore(store)
    legacy = LegacyBanks((recipes_store, FileStore(settings.data_root / "models")))
    database = Database(settings.database_url or embedded(settings.data_root))
    threads = worker_threads(settings)
    extractor = extractor or _extractor(settings, repository, threads)
    # After everything that may refuse: it limits the whole process until it is closed.
    pool = NumericsPool(threads)
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    embedder = Embedder(extractor, pool, limits, settings.batch_size)
    backbones = Backbones(
        repository, ChoiceStore(store), wanted=settings.backbone, legacy=settings.legacy_backbone
    )
    scoring = Scoring(settings.distance, settings.blur_sigma, settings.search_device, settings.index_min_rows)
    banks = Banks(bank_store, legacy, calibrations, scoring)
    committer = Committer(store, recipes, bank_store, calibrations, dataset_store)
    reader = SampleReader(dataset_store)
    turns = Turns("calibrations", settings.max_waiting_fits)
    tokens = SampleTokens(embedder, TokenStore(store, settings.token_cache_bytes))
    calibrator = Calibrator(embedder, backbones, banks, reader, committer, scoring, tokens, turns)
    datasets = Datasets(dataset_store, committer, embedder)
    explainer = Explainer(dataset_store, limits, scoring.distance)
    verdicts = VerdictLog(database, Rules(settings.drift_alpha, settings.drift_seed))
    succession = Succession(banks, calibrator, committer, activity, scoring, pool)
    lineage = Lineage(banks, backbones, committer)
    gate = FitGate(activity, settings.max_waiting_fits)
    fitter = Fitter(
        embedder,
        backbones,
        reader,
        committer,
        tokens,
        succession,
        gate,
        coreset_rate=settings.coreset_rate,
        min_ok_samples=settings.min_ok_samples,
    )
    return Runtime(
        settings=settings,
        backbones=backbones,
        extractor=extractor,
        pool=pool,
        fitter=fitter,
        accumulator=Accumulator(fitter, lineage, banks, reader, committer, tokens, succession, gate, pool),
        remover=Remover(datasets, committer, reader, lineage, tokens, succession, gate, pool),
        calibrator=calibrator,
        inspector=Inspector(
            embedder,
            backbones,
            banks,
            committer,
            scoring,
            Defaults(settings.score_percentile, settings.area_mm2_thr, settings.require_calibration),
            settings.max_inflight,
            explainer,
        ),
        explainer=explainer,
        datasets=datasets,
        samples=reader,
        states=States(store, extractor, backbones, banks, bank_store, recipes, datasets, activity),
        database=database,
        drift=DriftMonitor(verdicts if settings.drift else None, observe_drift),
    )


def build_legacy_import(settings: Settings) -> LegacyImport:
    """Join what an import from another generation's data needs; no event loop, no model."""
    store, recipes_store = FileStore(settings.data_root), FileStore(settings.recipes_root)
    repository = ModelRepository(settings.model_repository)
    recipes, banks = RecipeStore(recipes_store), BankStore(recipes_store)
    datasets, choices = DatasetStore(store), ChoiceStore(store)
    committer = Committer(store, recipes, banks, CalibrationStore(recipes_store), datasets)
    backbones = Backbones(repository, choices, wanted=settings.backbone, legacy=settings.legacy_backbone)
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    return LegacyImport(datasets, banks, recipes, committer, backbones, choices, repository, limits)


def worker_threads(settings: Settings) -> int:
    """Share the cores evenly among the workers, at least one thread each."""
    return settings.threads or max(1, len(os.sched_getaffinity(0)) // settings.workers)


def _extractor(settings: Settings, repository: ModelRepository, threads: int) -> FeatureExtractor:
    # Imported here: an adapter brings its library, and a process needs one adapter.
    def make() -> FeatureExtractor:
        match settings.triton_url:
            case None:
                from orchestrator.features.onnx import OnnxExtractor

                return OnnxExtractor(repository, threads=threads)
            case url:
                from orchestrator.features.triton import TritonExtractor

                return TritonExtractor(url)

    if settings.light_import:
        return DeferredExtractor("triton" if settings.triton_url else "onnxruntime", make)
    return make()
