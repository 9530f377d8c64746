from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import nearest
from orchestrator.patchcore.score_rules import NEIGHBOURS, rule_score
from orchestrator.patchcore.scoring import image_score
from tests import reference

DIM = 8
RULES: tuple[ScoreRule, ...] = ("percentile", "mean_top1", "max", "reweighted")
Found = tuple[FloatArray, MaskArray, FloatArray, IndexArray, MemoryBank]


def searched(grid: tuple[int, int], bank_rows: int, seed: int, *, share: float = 0.7) -> Found:
    """Search a random bank for the patches that count: distances, patches, queries, rows, bank."""
    rng = np.random.default_rng(seed)
    memory = MemoryBank(reference.clustered(bank_rows, DIM, 3, seed), (1, 1))
    patches = rng.random(grid) < share
    queries = reference.clustered(max(1, int(patches.sum())), DIM, 5, seed + 1)[: int(patches.sum())]
    distances = np.zeros(grid, dtype=np.float32)
    rows = np.full(grid, -1, dtype=np.int64)
    if patches.any():
        distances[patches], rows[patches] = nearest(queries, memory)
    return distances, patches, queries, rows, memory


def score(rule: ScoreRule, found: Found, *, percentile: float = 99.0) -> float:
    distances, patches, queries, rows, memory = found
    # One pixel a patch: a map that is no blur of anything.
    return rule_score(
        rule,
        distances=distances,
        patches=patches,
        anomaly=distances,
        mask=patches,
        percentile=percentile,
        queries=queries,
        rows=rows,
        memory=memory,
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 13), st.integers(1, 17), st.integers(1, 40), st.integers(0, 10_000))
def test_every_rule_is_its_naive_one(height: int, width: int, bank_rows: int, seed: int) -> None:
    found = searched((height, width), bank_rows, seed)
    distances, patches, queries, _, memory = found
    counted = [float(d) for d in distances[patches]]
    if not counted:
        assert [score(rule, found) for rule in RULES] == [0.0] * 4
        return
    top = sorted(counted, reverse=True)[: max(1, math.floor(0.01 * len(counted)))]
    assert score("max", found) == max(counted)
    assert score("mean_top1", found) == pytest.approx(sum(top) / len(top), rel=1e-6)
    assert score("percentile", found) == pytest.approx(reference.percentile(counted, 99), rel=1e-6)
    naive = reference.reweighted_score(queries, memory.embeddings, NEIGHBOURS)
    assert score("reweighted", found) == pytest.approx(naive, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("bank_rows", [1, 2, 8, 9, 10, 300])
@pytest.mark.parametrize("seed", range(3))
def test_reweighting_is_that_of_anomalib(bank_rows: int, seed: int) -> None:
    found = searched((6, 7), bank_rows, seed, share=1.0)
    _, _, queries, _, memory = found
    assert score("reweighted", found) == pytest.approx(_anomalib(queries, memory.embeddings), rel=1e-5)


def _anomalib(embedding: FloatArray, memory_bank: FloatArray) -> float:
    """Transcribe `PatchcoreModel.forward` from the search on, for a batch of one, in NumPy and its order of steps."""

    def euclidean(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = -2 * (x @ y.T) + (x**2).sum(-1, keepdims=True) + (y**2).sum(-1, keepdims=True).T
        return np.sqrt(np.maximum(squared, 0))

    tokens, bank = embedding.astype(np.float64), memory_bank.astype(np.float64)
    table = euclidean(tokens, bank)
    patch_scores, locations = table.min(1), table.argmin(1)
    max_patch = int(patch_scores.argmax())
    nn_sample = bank[locations[max_patch]][None]
    support = np.argsort(euclidean(nn_sample, bank)[0], kind="stable")[: min(9, len(bank))]
    distances = euclidean(tokens[max_patch][None], bank[support])[0]
    softmax = np.exp(distances) / np.exp(distances).sum()
    return float((1 - softmax[0]) * patch_scores[max_patch])


def test_a_bank_of_one_row_leaves_reweighting_nothing_to_weigh() -> None:
    found = searched((4, 4), 1, 0)
    assert score("max", found) > 0
    assert score("reweighted", found) == 0.0


def test_a_nearest_row_that_the_bank_holds_twice_weighs_like_any_other() -> None:
    rows = reference.clustered(20, DIM, 4, 0)
    doubled = MemoryBank(np.ascontiguousarray(np.concatenate([rows, rows])), (1, 1))
    queries = reference.clustered(12, DIM, 4, 1)
    distances, found = nearest(queries, doubled)
    patches = np.ones((3, 4), dtype=np.bool_)
    held = (distances.reshape(3, 4), patches, queries, found.reshape(3, 4), doubled)
    naive = reference.reweighted_score(queries, doubled.embeddings, NEIGHBOURS)
    assert score("reweighted", held) == pytest.approx(naive, rel=1e-6)


def test_one_patch_is_its_own_score_under_every_rule_but_reweighting() -> None:
    found = searched((1, 1), 30, 3, share=1.0)
    distance = float(found[0][0, 0])
    assert [score(rule, found) for rule in RULES[:3]] == pytest.approx([distance] * 3)
    assert 0 < score("reweighted", found) < distance


def test_a_patch_that_does_not_count_moves_no_rule() -> None:
    distances, patches, queries, rows, memory = searched((9, 9), 30, 4, share=0.5)
    loud = np.where(patches, distances, np.float32(2))
    for rule in RULES:
        assert score(rule, (loud, patches, queries, rows, memory)) == score(
            rule, (distances, patches, queries, rows, memory)
        )


@pytest.mark.parametrize(("patches", "averaged"), [(99, 1), (100, 1), (199, 1), (200, 2), (1024, 10)])
def test_the_largest_percent_is_rounded_down_and_at_least_one(patches: int, averaged: int) -> None:
    distances = np.zeros((1, 1024), dtype=np.float32)
    distances[0, :patches] = np.linspace(0, 1, patches, dtype=np.float32)
    counts = np.arange(1024)[None] < patches
    memory = MemoryBank(np.eye(2, dtype=np.float32), (1, 1))
    found = (distances, counts, np.zeros((patches, 2), np.float32), np.zeros((1, 1024), np.int64), memory)
    expected = np.sort(distances[counts])[-averaged:].mean()
    assert score("mean_top1", found) == pytest.approx(float(expected), rel=1e-6)


def test_the_percentile_rule_is_the_wire_one() -> None:
    found = searched((7, 5), 20, 5)
    distances, patches, *_ = found
    assert score("percentile", found, percentile=90) == image_score(distances, patches, 90)
