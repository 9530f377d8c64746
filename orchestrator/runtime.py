"""The composition root: settings to adapters to services; the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from orchestrator.features.base import FeatureExtractor
from orchestrator.features.deferred import DeferredExtractor
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.services.accumulate import Accumulator
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks
from orchestrator.services.calibrate import Calibrator
from orchestrator.services.commit import Committer
from orchestrator.services.datasets import Datasets
from orchestrator.services.embed import Embedder
from orchestrator.services.fit import Fitter
from orchestrator.services.gate import FitGate
from orchestrator.services.import_legacy import LegacyImport
from orchestrator.services.inspect import Defaults, Inspector
from orchestrator.services.lineage import Lineage
from orchestrator.services.pool import NumericsPool
from orchestrator.services.remove import Remover
from orchestrator.services.samples import SampleReader
from orchestrator.services.score import Scoring
from orchestrator.services.state import States
from orchestrator.services.succession import Succession
from orchestrator.services.tokens import SampleTokens
from orchestrator.settings import Settings
from orchestrator.storage.activity import ActivityStore
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.legacy import LegacyBanks
from orchestrator.storage.recipes import RecipeStore
from orchestrator.storage.tokens import TokenStore


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
    datasets: Datasets
    samples: SampleReader
    states: States

    async def close(self) -> None:
        """Let running work end and release everything."""
        await self.extractor.close()
        await asyncio.to_thread(self.pool.close)


def build_runtime(settings: Settings, *, extractor: FeatureExtractor | None = None) -> Runtime:
    """Join everything; touches neither network nor model. Call it inside the event loop that serves.

    extractor: to serve with, in place of the one that the settings name.
    """
    store = FileStore(settings.data_root)
    recipes_store = FileStore(settings.recipes_root)
    repository = ModelRepository(settings.model_repository)
    recipes, bank_store = RecipeStore(recipes_store), BankStore(recipes_store)
    calibrations, dataset_store = CalibrationStore(recipes_store), DatasetStore(store)
    activity = ActivityStore(store)
    legacy = LegacyBanks((recipes_store, FileStore(settings.data_root / "models")))
    threads = worker_threads(settings)
    pool = NumericsPool(threads)
    extractor = extractor or _extractor(settings, repository, threads)
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    embedder = Embedder(extractor, pool, limits, settings.batch_size)
    backbones = Backbones(
        repository, ChoiceStore(store), wanted=settings.backbone, legacy=settings.legacy_backbone
    )
    scoring = Scoring(settings.distance, settings.blur_sigma)
    banks = Banks(bank_store, legacy, calibrations, scoring)
    committer = Committer(store, recipes, bank_store, calibrations, dataset_store)
    reader = SampleReader(dataset_store)
    tokens = SampleTokens(embedder, TokenStore(store, settings.token_cache_bytes))
    calibrator = Calibrator(embedder, backbones, banks, reader, committer, scoring, tokens)
    datasets = Datasets(dataset_store, committer, embedder)
    succession = Succession(banks, calibrator, committer, activity)
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
        remover=Remover(datasets, reader, lineage, tokens, succession, gate, pool),
        calibrator=calibrator,
        inspector=Inspector(
            embedder,
            backbones,
            banks,
            committer,
            scoring,
            Defaults(settings.score_percentile, settings.area_mm2_thr, settings.require_calibration),
            settings.max_inflight,
        ),
        datasets=datasets,
        samples=reader,
        states=States(store, extractor, backbones, banks, bank_store, recipes, datasets, activity),
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
