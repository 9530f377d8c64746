from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.near_duplicates import NEAR, SCALE_QUANTILE, fold_of_groups, near_duplicate_groups
from tests.reference import near_groups

ALL = np.ones((5, 6), np.bool_)


def photographs(parts: int, copies: int, *, noise: float, seed: int = 0) -> list[FloatArray]:
    """Draw tokens of parts, each photographed several times: (30, 16) unit rows."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(parts, 1, 30, 16))
    rows = (base + noise * rng.normal(size=(parts, copies, 30, 16))).reshape(-1, 30, 16)
    return list((rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32))


def same_partition(a: IndexArray, b: list[int]) -> bool:
    pairs = set(zip(a.tolist(), b, strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b))


def test_copies_are_together_and_parts_apart() -> None:
    groups = near_duplicate_groups(photographs(10, 3, noise=0.1), [ALL] * 30)
    assert groups.tolist() == [i // 3 for i in range(30)]
    assert groups.dtype == np.int64


def test_different_parts_are_each_alone() -> None:
    assert near_duplicate_groups(photographs(60, 1, noise=0), [ALL] * 60).tolist() == list(range(60))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.floats(0.05, 1.0), st.integers(0, 100))
def test_groups_are_those_of_pair_by_pair_comparison(parts: int, noise: float, seed: int) -> None:
    tokens = photographs(parts, 2, noise=noise, seed=seed)
    groups = near_duplicate_groups(tokens, [ALL] * len(tokens))
    assert same_partition(groups, near_groups(tokens, NEAR, SCALE_QUANTILE))


def test_a_chain_of_frames_is_one_group() -> None:
    rng = np.random.default_rng(1)
    first, last = rng.normal(size=(2, 30, 16))
    frames = [first + (last - first) * i / 8 for i in range(9)]
    tokens = [*(np.asarray(f, np.float32) for f in frames), *photographs(20, 1, noise=0)]
    groups = near_duplicate_groups(tokens, [ALL] * 29)
    assert set(groups[:9].tolist()) == {0}
    assert len(set(groups.tolist())) == 21


def test_patches_outside_the_roi_do_not_count() -> None:
    # The parts are alike where nobody looks.
    tokens = photographs(12, 1, noise=0)
    inside = np.zeros((5, 6), np.bool_)
    inside[:, :2] = True
    for rows in tokens:
        rows[~inside.reshape(-1)] = tokens[0][~inside.reshape(-1)]
    assert len(set(near_duplicate_groups(tokens, [inside] * 12).tolist())) == 12


def test_a_photograph_with_a_roi_is_no_copy_because_little_of_it_counts() -> None:
    tokens = photographs(24, 1, noise=0)
    little = np.zeros((5, 6), np.bool_)
    little[0, :2] = True
    assert len(set(near_duplicate_groups(tokens, [little] * 12 + [ALL] * 12).tolist())) == 24


@pytest.mark.parametrize("bursts", [[9, 1, 1, 1], [20, 20], [25, 1, 1]])
def test_a_burst_that_most_pairs_lie_in_is_one_group_in_any_order(bursts: list[int]) -> None:
    rng = np.random.default_rng(3)
    parts = rng.normal(size=(len(bursts), 30, 16))
    kind = np.repeat(np.arange(len(bursts)), bursts)
    tokens = (parts[kind] + 0.1 * rng.normal(size=(len(kind), 30, 16))).astype(np.float32)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(kind))
        groups = near_duplicate_groups(list(tokens[order]), [ALL] * len(kind))
        assert same_partition(groups, kind[order].tolist())


def test_grids_of_other_shapes_are_compared_among_themselves() -> None:
    square, flat = photographs(4, 2, noise=0.1), [t[:6] for t in photographs(3, 2, noise=0.1, seed=9)]
    tokens = [square[0], flat[0], *square[1:], *flat[1:], photographs(1, 1, noise=0)[0][:15]]
    shapes = {30: (5, 6), 6: (2, 3), 15: (3, 5)}
    groups = near_duplicate_groups(tokens, [np.ones(shapes[len(t)], np.bool_) for t in tokens])
    assert groups.tolist() == [0, 1, 0, 2, 2, 3, 3, 4, 4, 1, 5, 5, 6, 6, 7]


def test_grids_of_one_shape_each_are_all_apart() -> None:
    tokens = [photographs(1, 1, noise=0)[0][:n] for n in (6, 10, 15)]
    assert near_duplicate_groups(tokens, [np.ones((1, len(t)), np.bool_) for t in tokens]).tolist() == [
        0,
        1,
        2,
    ]


def test_identical_photographs_are_one_group_though_nothing_is_farther() -> None:
    tokens = [photographs(1, 1, noise=0)[0]] * 5
    assert near_duplicate_groups(tokens, [ALL] * 5).tolist() == [0] * 5


def test_patches_that_nobody_shares_make_nobody_near() -> None:
    tokens = photographs(1, 1, noise=0) * 3
    assert near_duplicate_groups(tokens, [np.zeros((5, 6), np.bool_)] * 3).tolist() == [0, 1, 2]


def test_comparing_many_reports_its_progress_and_ends_when_told() -> None:
    tokens = [np.zeros((1024, 384), np.float16)] * 60
    patches, shares = [np.ones((32, 32), np.bool_)] * 60, list[float]()

    def stop(share: float) -> None:
        shares.append(share)
        if len(shares) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_duplicate_groups(tokens, patches, stop)
    assert 0 < shares[0] < shares[1] < 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_have_nothing_to_be_compared_with(count: int) -> None:
    same = [photographs(1, 1, noise=0)[0]] * count
    assert near_duplicate_groups(same, [ALL] * count).tolist() == list(range(count))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(0, 5), st.data())
def test_a_group_is_in_one_fold_and_no_fold_is_empty(
    numbers: list[int], seed: int, data: st.DataObject
) -> None:
    groups = np.array(numbers, dtype=np.int64)
    k = data.draw(st.integers(1, len(set(numbers))))
    folds = fold_of_groups(groups, k, seed=seed)
    assert sorted(set(folds.tolist())) == list(range(k))
    assert all(len(set(folds[groups == g].tolist())) == 1 for g in set(numbers))
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= max(np.bincount(groups))
    assert folds.tolist() == fold_of_groups(groups, k, seed=seed).tolist()


def test_single_photographs_fill_the_folds_evenly_and_at_random() -> None:
    groups = np.arange(52, dtype=np.int64)
    folds = fold_of_groups(groups, 5, seed=0)
    assert sorted(np.bincount(folds).tolist()) == [10, 10, 10, 11, 11]
    assert folds.tolist() != fold_of_groups(groups, 5, seed=1).tolist()
    with pytest.raises(InvalidInput, match="folds"):
        fold_of_groups(groups, 53, seed=0)
