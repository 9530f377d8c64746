"""Real photographs and their patch tokens, computed once and kept beside the exported backbones.

The photographs are nobody's to publish: they lie outside the repository, in the folder that `--data` names, one folder
a set (`good/`, `good_test/`, `bad/`, `masks/`), with the third-party graph in `weights/`. Where they are absent a suite
says so and uses drawn or synthetic tokens, marked as such in its rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.demo.photographs import Photograph, read_folder
from orchestrator.domain.arrays import FloatArray, HalfArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.features.base import CallContext, Priority
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.features.views import VIEWS, View
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.embed import Embedded, Embedder, Prepared, prepare
from orchestrator.services.embed import Photograph as Posted
from orchestrator.services.pool import NumericsPool
from tests.benchmarks.rows import ROOT
from tests.benchmarks.servers import Plan

SETS = ("cookie", "casting", "transistor", "magnetic_tile")
RESNET = "resnet18_tokens"
_GRAPH = "weights/resnet18_l23_tokens384.onnx"
_INPUT_SIDE = 448
PLAIN_OPTIONS = MemoryOptions()
LIMITS = ImageLimits(1 << 26, 1 << 26)


@dataclass(frozen=True, slots=True)
class RealSet:
    """One set with its tokens, in the order of its photographs."""

    name: str
    spec: BackboneSpec
    good: list[Embedded]
    good_test: list[Embedded]
    bad: list[Embedded]
    bad_photographs: tuple[Photograph, ...]


def real_data(plan: Plan) -> Path | None:
    """Give the folder of real photographs; None where it is absent."""
    return plan.data if plan.data is not None and (plan.data / _GRAPH).is_file() else None


def sets_present(data: Path) -> list[str]:
    """Name the sets that are there."""
    return [name for name in SETS if (data / name / "good").is_dir()]


def real_rows(plan: Plan, n: int, *, backbone: str = RESNET) -> FloatArray:
    """Stack real patch tokens of all sets, the first n of a seeded shuffle: (n, D) float32, L2-normalised.

    Raises FileNotFoundError without photographs, ValueError where they give fewer rows.
    """
    data = real_data(plan)
    if data is None:
        raise FileNotFoundError(f"no real photographs in {plan.data}; name their folder with --data")
    good = [e.rows for name in sets_present(data) for e in real_set(plan, name, backbone=backbone).good]
    stacked = np.concatenate(good)
    if len(stacked) < n:
        raise ValueError(f"{len(stacked)} real rows are at hand, {n} were asked for")
    return l2_normalise(stacked[np.random.default_rng(0).permutation(len(stacked))[:n]])


def real_set(
    plan: Plan, name: str, *, backbone: str = RESNET, options: MemoryOptions = PLAIN_OPTIONS
) -> RealSet:
    """Give one set with its tokens, the good photographs with their views.

    Raises FileNotFoundError without photographs.
    """
    data = real_data(plan)
    if data is None:
        raise FileNotFoundError(f"no real photographs in {plan.data}; name their folder with --data")
    spec = real_backbone(plan, data, backbone)
    folder = read_folder(data / name)

    def embedded(photographs: tuple[Photograph, ...], split: str) -> list[Embedded]:
        prepared = [prepare(Posted(p.read(), p.name), spec, LIMITS, options.tiling) for p in photographs]
        digest = hashlib.sha256(b"".join(p.canvases.tobytes() for p in prepared)).hexdigest()[:12]
        folder = plan.repository.parent / "tokens" / spec.fingerprint[:12]
        augmentation = options.augmentation if split == "good" else "none"
        tokens = _kept(plan, folder / f"{name}-{split}-{digest}.npy", prepared, spec)
        views = VIEWS[augmentation]
        seen = (
            _kept(plan, folder / f"{name}-{split}-{digest}-{augmentation}.npy", prepared, spec, views)
            if views
            else [None] * len(prepared)
        )
        # A tiled crop's grid is its own: padded where the tokens are kept.
        return [
            Embedded(t[: p.patches.size], p.box, p.mask, p.patches, p.sha256, v)
            for t, p, v in zip(tokens, prepared, seen, strict=True)
        ]

    return RealSet(
        name,
        spec,
        embedded(folder.good, "good"),
        embedded(folder.good_test, "good_test"),
        embedded(folder.bad, "bad"),
        folder.bad,
    )


def real_backbone(plan: Plan, data: Path, name: str) -> BackboneSpec:
    """Give a real backbone's newest version, brought into the bench's repository where it is missing."""
    models = ModelRepository(plan.repository)
    if not models.versions(name):
        source = ["import", "--onnx", str(data / _GRAPH), "--name", RESNET, "--input-size", str(_INPUT_SIDE)]
        built = ["onnx", "--backbone", name]
        arguments = source if name == RESNET else built
        subprocess.run(
            [sys.executable, "-m", "export", *arguments, "--repository", str(plan.repository.absolute())],
            cwd=ROOT,
            stdout=sys.stderr,
            check=True,
        )
    return models.spec(name)


def _kept(
    plan: Plan, path: Path, prepared: list[Prepared], spec: BackboneSpec, views: Sequence[View] = ()
) -> HalfArray:
    """Give all tokens, (n, N, D), or all views' tokens, (n, V, N, D), computed once."""
    if not path.is_file():
        sys.stderr.write(f"embedding {path.stem}: {len(prepared)} photographs by {spec.label}\n")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, asyncio.run(tokens_of(plan, prepared, spec, views)))
    kept: HalfArray = np.load(path, mmap_mode="r")
    return kept


async def tokens_of(
    plan: Plan, prepared: list[Prepared], spec: BackboneSpec, views: Sequence[View] = ()
) -> HalfArray:
    """Compute tokens, (n, N, D), padded to the longest; with views theirs alone, (n, V, N, D)."""
    extractor = OnnxExtractor(ModelRepository(plan.repository), threads=plan.threads)
    pool = NumericsPool(plan.threads)
    embedder = Embedder(extractor, pool, LIMITS, batch_size=8)
    try:
        context = CallContext("bench", 3600.0, Priority.FIT)
        parts = [
            await embedder.extract(prepared[low : low + 8], spec, context, views)
            for low in range(0, len(prepared), 8)
        ]
    finally:
        await extractor.close()
        pool.close()
    embedded = [e for part in parts for e in part]
    if views:
        return np.stack([e.views for e in embedded if e.views is not None])
    longest = max(len(e.tokens) for e in embedded)
    return np.stack([np.pad(e.tokens, ((0, longest - len(e.tokens)), (0, 0))) for e in embedded])
