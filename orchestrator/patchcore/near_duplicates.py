"""Photographs that are nearly the same one: the same part shot twice, video frames, re-encoded copies.

Scores of near-duplicates are no independent evidence, and one of them in the bank makes the other's score too low.
Knows patch tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.domain.arrays import FloatArray, HalfArray, IndexArray, MaskArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import l2_normalise

NEAR = 1 / 3
"""Share of the typical distance. Measured with a ResNet-18's tokens on four sets of real parts, 30 photographs each:
different parts lie at 0.47 or more (but for one pair at 0.32 that looks like one part), JPEG copies of quality 90 at
0.10-0.31, copies with noise of 2 grey levels at 0.10-0.36, 3 % brighter ones at 0.05-0.07, copies shifted by a pixel
at 0.15-0.47: what moved on the belt between two frames may count as another part."""

CELLS = 4
SEED = 0
_TYPICAL_PAIRS = 64
_BLOCK = 256


def near_duplicate_groups(
    tokens: Sequence[HalfArray | FloatArray], patches: Sequence[MaskArray]
) -> IndexArray:
    """Give each of n photographs the number of its group: (n,) int64, numbered by first appearance.

    tokens: (N, D) each, row-major over the grid. patches: (R, C) bool each, those that count. Two photographs belong
    together where the root mean square distance of their normalised tokens, patch by patch, is at most NEAR of the
    median over pairs (of 64 drawn ones where there are more), and so do those between which a chain of such pairs
    leads. Relative to the median, because distances depend on backbone and part; so a set that is one single part
    shot again and again has no near-duplicates in it, and fewer than three photographs have none at all.

    All pairs are compared by means over CELLS x CELLS cells first. A mean's distance is never above that of what it
    is the mean of, so what this dismisses is not near; only the rest is compared patch by patch.
    """
    n = len(tokens)
    group: IndexArray = np.arange(n, dtype=np.int64)
    if n < 3:
        return group
    first, second = np.triu_indices(n, 1)
    if first.size > _TYPICAL_PAIRS:
        drawn = np.random.default_rng(SEED).choice(first.size, _TYPICAL_PAIRS, replace=False)
        first, second = first[drawn], second[drawn]

    def squared(a: int, b: int) -> float:
        difference = _rows(tokens[a], patches[a]) - _rows(tokens[b], patches[b])
        return float(np.einsum("nd,nd->", difference, difference))

    typical = float(np.median([squared(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]))
    limit = NEAR**2 * typical
    for a, b in _candidates([_pooled(t, p) for t, p in zip(tokens, patches, strict=True)], limit):
        if group[a] != group[b] and squared(a, b) <= limit:
            group[group == max(group[a], group[b])] = min(group[a], group[b])
    numbered: IndexArray = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return numbered


def fold_of_groups(groups: IndexArray, k: int, *, seed: int) -> IndexArray:
    """Give each sample one of k folds, at random, every group whole: (n,) int64 in 0..k-1, none empty.

    groups: (n,) int64. The largest group goes first, each to the smallest fold yet: groups of one give folds whose
    sizes differ by at most one.

    Raises InvalidInput unless 1 <= k <= number of groups.
    """
    numbers, sizes = np.unique(groups, return_counts=True)
    if not 1 <= k <= numbers.size:
        raise InvalidInput(
            f"folds: {k} folds of {numbers.size} groups are not possible; give 1 <= folds <= groups"
        )
    shuffled = np.random.default_rng(seed).permutation(numbers.size)
    folds: IndexArray = np.zeros(groups.size, dtype=np.int64)
    filled = np.zeros(k, dtype=np.int64)
    for place in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold = int(filled.argmin())
        folds[groups == numbers[place]] = fold
        filled[fold] += sizes[place]
    return folds


def _rows(tokens: HalfArray | FloatArray, patches: MaskArray) -> FloatArray:
    """Normalise the tokens, zeros where a patch does not count: (N, D) float32."""
    rows = l2_normalise(tokens)
    rows[~patches.reshape(-1)] = 0
    return rows


def _pooled(tokens: HalfArray | FloatArray, patches: MaskArray) -> FloatArray:
    """Sum the rows of each cell over the root of their number: |a - b|^2 of two is at most that of their rows."""
    height, width = patches.shape
    grid = _rows(tokens, patches).reshape(height, width, -1)
    down, across = (np.unique(np.arange(CELLS) * side // CELLS) for side in (height, width))
    cells = np.add.reduceat(np.add.reduceat(grid, down, axis=0), across, axis=1)
    counts = np.outer(np.diff([*down, height]), np.diff([*across, width]))
    return np.asarray(cells / np.sqrt(counts)[:, :, None], dtype=np.float32).reshape(-1)


def _candidates(pooled: Sequence[FloatArray], limit: float) -> list[tuple[int, int]]:
    stacked = np.stack(pooled)
    norms = np.einsum("nd,nd->n", stacked, stacked)
    # The products' rounding must not dismiss a pair.
    slack = 1e-5 * float(norms.max())
    pairs: list[tuple[int, int]] = []
    for low in range(0, len(stacked), _BLOCK):
        block = stacked[low : low + _BLOCK]
        squared = norms[low : low + _BLOCK, None] + norms[None, low:] - 2 * (block @ stacked[low:].T)
        near = np.argwhere(np.triu(squared <= limit + slack, 1))
        pairs += [(low + int(a), low + int(b)) for a, b in near]
    return pairs
