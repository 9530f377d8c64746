"""Which patch is named, on distances made by hand; the numbers themselves are held against brute force over the API."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.identity import Part
from orchestrator.domain.letterbox import Letterbox
from orchestrator.features.preprocess import ImageLimits
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.search import ExactSearch
from orchestrator.services.banks import LoadedBank
from orchestrator.services.embed import Embedded
from orchestrator.services.explain import Explainer, Explanation
from orchestrator.services.score import PatchDistances, patch_distances
from orchestrator.storage.banks import legacy_metadata
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from tests.reference import clustered

PART = Part.of("default", "a", "b")
GRID = (3, 4)
SPEC = BackboneSpec(
    "tiny", 1, "0" * 64, (60, 80), GRID, 16, "black", "random", None, "image", "tokens", "0" * 64
)


def explained(
    root: Path, tokens: FloatArray, counted: list[tuple[int, int]], rows: FloatArray
) -> Explanation:
    patches = np.zeros(GRID, dtype=np.bool_)
    patches[tuple(np.transpose(counted))] = True
    box = Letterbox.fit((60, 80), (60, 80))
    mask = np.ones((60, 80), dtype=np.bool_)
    photograph = Embedded(tokens.astype(np.float16), box, mask, patches, "0" * 64)
    none = np.zeros(0, dtype=np.int64)
    record = BankRecord(rows.astype(np.float16), GRID, legacy_metadata(len(rows), {}), none, none)
    bank = LoadedBank(record, ExactSearch(MemoryBank(l2_normalise(record.embeddings), GRID), "euclidean"))
    explainer = Explainer(DatasetStore(FileStore(root)), ImageLimits(1, 1), "euclidean")
    found: PatchDistances = patch_distances(photograph, bank.search)
    return explainer.explain(PART, found, photograph, bank, SPEC)


def test_of_equal_distances_the_first_patch_is_named(tmp_path: Path) -> None:
    tokens = np.repeat(clustered(1, 16, 1, seed=1), 12, axis=0)
    other = clustered(1, 16, 1, seed=2)
    explanation = explained(tmp_path, tokens, [(1, 3), (1, 2), (2, 0)], other)
    assert (explanation.patch, explanation.point) == ((1, 2), (50, 30))
    assert explanation.distance > 0.1


def test_a_patch_that_does_not_count_is_never_named(tmp_path: Path) -> None:
    tokens = np.repeat(clustered(1, 16, 1, seed=1), 12, axis=0)
    explanation = explained(tmp_path, tokens, [(2, 1)], tokens[:1])
    assert explanation.patch == (2, 1)
    assert explanation.distance < 1e-6
    tokens[3] = clustered(1, 16, 1, seed=2)[0]
    assert explained(tmp_path, tokens, [(2, 1)], tokens[:1]).patch == (2, 1)


def test_a_bank_that_does_not_know_its_photographs_names_none(tmp_path: Path) -> None:
    tokens = clustered(12, 16, 3, seed=1)
    assert explained(tmp_path, tokens, [(0, 0), (0, 1)], tokens[5:]).nearest is None
