"""Banks that grow and shrink: covered as well as when built anew, and nothing of what was removed stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.letterbox import Letterbox
from orchestrator.errors import NotEnoughSamples
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.neighbors import nearest
from orchestrator.services.banks import LoadedBank
from orchestrator.services.cover import Work, candidates, extended, without
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import build_memory
from orchestrator.services.score import Scoring
from tests.reference import clustered

GRID, DIM = (12, 12), 16
RATE = 0.1
MARGIN = 1.1


def photographs(count: int, seed: int) -> list[Embedded]:
    """Draw photographs that share clusters, each with an own turn and some with patches of nobody else."""
    rng = np.random.default_rng(seed)
    n = GRID[0] * GRID[1]
    rows = clustered(count * n, DIM, 25, seed).reshape(count, n, DIM)
    rows = rows + 0.2 * rng.standard_normal((count, 1, DIM)) / math.sqrt(DIM)
    rows[::5, : n // 4] = l2_normalise(rng.standard_normal(((count + 4) // 5 * (n // 4), DIM))).reshape(
        -1, n // 4, DIM
    )
    box = Letterbox.fit((48, 48), (48, 48))
    patches = np.ones(GRID, np.bool_)
    patches[0] = False
    mask = np.ones((48, 48), np.bool_)
    return [
        Embedded(r.astype(np.float16), box, mask, patches, f"{i:03d}".rjust(64, "0"))
        for i, r in enumerate(rows)
    ]


def loaded(record: BankRecord) -> LoadedBank:
    memory = MemoryBank(l2_normalise(record.embeddings), record.grid)
    return LoadedBank(record, Scoring("euclidean", 1.0).search(memory))


def fitted(samples: Sequence[Embedded], rate: float = RATE) -> LoadedBank:
    memory, kept, n = build_memory(samples, rate)
    sample_of = np.repeat(np.arange(len(samples)), [int(e.patches.sum()) for e in samples])
    patch_of = np.concatenate([np.flatnonzero(e.patches) for e in samples])
    metadata = BankMetadata(
        1, "tiny", 1, "f" * 64, n, rate, rate, 0.2, None, 0.0, tuple(e.sha256 for e in samples)
    )
    return loaded(
        BankRecord(memory.embeddings.astype(np.float16), GRID, metadata, sample_of[kept], patch_of[kept])
    )


def added_to(bank: LoadedBank, new: Sequence[Embedded], all_of_them: Sequence[Embedded]) -> LoadedBank:
    wanted = candidates(bank.record.metadata, len(new))
    old = {e.sha256: e for e in all_of_them if e.sha256 in wanted}
    return loaded(extended(bank, {e.sha256: e for e in new}, old, Work()))


def stacked(samples: Sequence[Embedded]) -> np.ndarray:
    return l2_normalise(np.concatenate([e.rows for e in samples]))


def radius(samples: Sequence[Embedded], bank: LoadedBank) -> float:
    return float(nearest(stacked(samples), bank.search.memory)[0].max())


def rebuilt_radius(samples: Sequence[Embedded]) -> float:
    return radius(samples, fitted(samples))


def is_true(bank: LoadedBank, samples: Sequence[Embedded]) -> bool:
    """Tell whether every row is the patch that it says it is, and none is in twice."""
    by_digest = {e.sha256: e for e in samples}
    record = bank.record
    places = set(zip(record.row_sample.tolist(), record.row_patch.tolist(), strict=True))
    truth = [
        l2_normalise(by_digest[record.metadata.sample_sha256[s]].tokens[p : p + 1])[0].astype(np.float16)
        for s, p in zip(record.row_sample, record.row_patch, strict=True)
    ]
    return len(places) == len(record.embeddings) and np.array_equal(record.embeddings, np.array(truth))


@pytest.mark.parametrize("seed", range(3))
def test_photographs_added_at_once_or_one_by_one_are_covered_as_by_a_fit_of_all(seed: int) -> None:
    samples = photographs(24, seed)
    reference = rebuilt_radius(samples)
    for steps in ([16], [23], list(range(5, 24)), [3, 20]):
        bank = fitted(samples[: steps[0]])
        for low, high in zip(steps, [*steps[1:], 24], strict=True):
            bank = added_to(bank, samples[low:high], samples)
        metadata = bank.record.metadata
        assert len(bank.record.embeddings) == math.ceil(RATE * metadata.n_embeddings)
        assert metadata.n_embeddings == len(stacked(samples))
        assert is_true(bank, samples)
        assert radius(samples, bank) <= MARGIN * reference


@pytest.mark.parametrize("seed", range(3))
def test_a_bank_without_any_one_photograph_is_covered_as_by_a_fit_of_the_others(seed: int) -> None:
    samples = photographs(12, seed)
    bank = fitted(samples)
    for gone in samples[::3]:
        others = [e for e in samples if e is not gone]
        left = loaded(without(bank, gone.sha256, {e.sha256: e for e in others}, Work()))
        assert gone.sha256 not in left.record.metadata.sample_sha256
        assert is_true(left, others)
        assert len(left.record.embeddings) == math.ceil(RATE * len(stacked(others)))
        assert radius(others, left) <= MARGIN * rebuilt_radius(others)
        rows = l2_normalise(gone.rows).astype(np.float16)
        assert not (left.record.embeddings[:, None] == rows[None]).all(axis=2).any()


@pytest.mark.parametrize("seed", range(3))
def test_removing_half_one_by_one_and_adding_it_again_stays_as_well_covered(seed: int) -> None:
    samples = photographs(16, seed)
    bank = fitted(samples)
    left = list(samples)
    for gone in samples[::2]:
        left = [e for e in left if e is not gone]
        bank = loaded(without(bank, gone.sha256, {e.sha256: e for e in left}, Work()))
    assert radius(left, bank) <= MARGIN * rebuilt_radius(left)
    for back in samples[::2]:
        left.append(back)
        bank = added_to(bank, [back], left)
    assert radius(left, bank) <= MARGIN * rebuilt_radius(left)
    assert is_true(bank, samples)


def test_an_addition_leaves_the_bank_s_own_rows_alone_until_the_bank_has_doubled() -> None:
    samples = photographs(9, 4)
    bank = fitted(samples[:4])
    grown = added_to(bank, samples[4:8], samples)
    assert np.array_equal(grown.record.embeddings[: len(bank.record.embeddings)], bank.record.embeddings)
    assert (candidates(bank.record.metadata, 4), grown.record.metadata.extra) == ((), {"accumulated": 4})
    assert candidates(grown.record.metadata, 1) == tuple(e.sha256 for e in samples[:8])
    anew = added_to(grown, samples[8:], samples)
    assert np.array_equal(anew.record.embeddings, fitted(samples).record.embeddings)
    assert anew.record.metadata.extra == {}
    # Of the first four nobody has the tokens any more.
    kept = added_to(grown, samples[8:], samples[4:])
    first = grown.record.row_sample < 4
    assert np.array_equal(kept.record.embeddings[: first.sum()], grown.record.embeddings[first])
    assert kept.record.metadata.extra == {"accumulated": 5}


def test_a_bank_that_keeps_everything_keeps_everything() -> None:
    samples = photographs(5, 0)
    bank = fitted(samples[:4], rate=1.0)
    bank = added_to(bank, samples[4:], samples)
    assert len(bank.record.embeddings) == len(stacked(samples))
    left = loaded(
        without(bank, samples[1].sha256, {e.sha256: e for e in samples if e is not samples[1]}, Work())
    )
    assert len(left.record.embeddings) == len(stacked(samples[1:]))
    assert is_true(left, samples)


def test_rows_of_photographs_that_nobody_has_any_more_stay_as_they_are() -> None:
    samples = photographs(6, 1)
    bank = fitted(samples)
    lost, gone, known = samples[0], samples[1], samples[2:]
    left = without(bank, gone.sha256, {e.sha256: e for e in known}, Work())
    before = bank.record.embeddings[bank.record.row_sample == 0]
    assert np.array_equal(left.embeddings[left.row_sample == 0], before)
    assert left.metadata.n_embeddings == len(stacked(known)) + len(before)
    assert is_true(loaded(left), [lost, *known])
    nobody = without(bank, gone.sha256, {}, Work())
    assert np.array_equal(nobody.embeddings, bank.record.embeddings[bank.record.row_sample != 1])


def test_a_removal_that_would_leave_no_row_is_refused() -> None:
    samples = photographs(3, 2)
    whole = fitted(samples)
    only = whole.record.row_sample == 2
    bank = loaded(
        replace(
            whole.record,
            embeddings=whole.record.embeddings[only],
            row_sample=whole.record.row_sample[only],
            row_patch=whole.record.row_patch[only],
        )
    )
    with pytest.raises(NotEnoughSamples, match=r"nothing would be left\. Upload"):
        without(bank, samples[2].sha256, {}, Work())
    # A photograph that has no row itself takes none with it.
    assert len(without(bank, samples[0].sha256, {}, Work()).embeddings) == only.sum()


def test_a_photograph_that_held_every_row_leaves_a_bank_of_the_others() -> None:
    samples = photographs(3, 2)
    whole = fitted(samples)
    only = whole.record.row_sample == 2
    record = BankRecord(
        whole.record.embeddings[only],
        GRID,
        whole.record.metadata,
        whole.record.row_sample[only],
        whole.record.row_patch[only],
    )
    others = samples[:2]
    left = loaded(without(loaded(record), samples[2].sha256, {e.sha256: e for e in others}, Work()))
    rows = stacked(others)
    assert np.array_equal(
        left.search.memory.embeddings, l2_normalise(rows[select_coreset(rows, RATE)].astype(np.float16))
    )
