"""Photographs that are nearly the same one: the same part shot twice, video frames, re-encoded copies.

Scores of near-duplicates are no independent evidence, and one of them in the bank makes the other's score too low.
Knows patch tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from orchestrator.domain.arrays import FloatArray, HalfArray, IndexArray, MaskArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import l2_normalise

NEAR = 0.3
"""Share of the scale. Measured with a ResNet-18's tokens on four sets of real parts: different parts lie at 0.4 or more
(but for the pairs of two sets that look like one part), copies at about 0.85 of what follows, which is their share of
the median: JPEG of quality 90 at 0.10-0.31, noise of 2 grey levels at 0.10-0.36, 3 % brighter at 0.05-0.07, shifted by
a pixel at 0.15-0.47: what moved on the belt between two frames may count as another part."""

SCALE_QUANTILE = 0.9
"""Of all pairs' distances. Pairs within bursts would pull a median down to themselves, so that none were near: two
bursts of equal length hold half of all pairs, one of nine tenths of the photographs four fifths."""

# Root mean square distances below this are the rounding of float16 tokens.
_ROUNDING = 1e-3
# Of rows compared at once, float32: all photographs' at a few patches.
_BLOCK_VALUES = 1 << 20


def near_duplicate_groups(
    tokens: Sequence[HalfArray | FloatArray],
    patches: Sequence[MaskArray],
    progress: Callable[[float], None] | None = None,
) -> IndexArray:
    """Give each of n photographs the number of its group: (n,) int64, numbered by first appearance.

    tokens: (N, D) each, row-major over the grid. patches: (R, C) bool each, those that count. progress: called with the
    share that is done; what it raises ends the work. Two photographs belong together where the root mean square
    distance of their normalised tokens, patch by patch, is at most NEAR of a scale, and so do those between which a
    chain of such pairs leads. A patch that counts in one of the two only has the distance 1. Grids of different shapes
    are never near.

    The scale is the SCALE_QUANTILE of all pairs' distances, because distances depend on backbone and part; so a set
    that is one single part shot again and again has no near-duplicates in it, and fewer than three photographs have
    none at all.
    """
    n = len(tokens)
    if n < 3:
        return np.arange(n, dtype=np.int64)
    shapes = [p.shape for p in patches]
    kinds = [np.array([i for i, own in enumerate(shapes) if own == shape]) for shape in dict.fromkeys(shapes)]
    compared = [k for k in kinds if len(k) > 1]
    distances = list[FloatArray]()
    for done, kind in enumerate(compared):

        def on_block(share: float, done: int = done) -> None:
            if progress is not None:
                progress((done + share) / len(compared))

        distances.append(_distances([tokens[i] for i in kind], [patches[i] for i in kind], on_block))
    pairs = np.concatenate([np.zeros(0, np.float32), *(d[np.triu_indices(len(d), 1)] for d in distances)])
    pairs = pairs[np.isfinite(pairs)]
    if pairs.size == 0:
        return np.arange(n, dtype=np.int64)
    limit = max(NEAR * float(np.quantile(pairs, SCALE_QUANTILE)), _ROUNDING)
    near = [np.argwhere(np.triu(d <= limit, 1)) for d in distances]
    joined = np.concatenate([kind[ends] for kind, ends in zip(compared, near, strict=True)])
    graph = sparse.coo_array((np.ones(len(joined), np.bool_), (joined[:, 0], joined[:, 1])), shape=(n, n))
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    numbered: IndexArray = np.argsort(np.argsort(first)).astype(np.int64)[inverse]
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


def _distances(
    tokens: Sequence[HalfArray | FloatArray],
    patches: Sequence[MaskArray],
    progress: Callable[[float], None],
) -> FloatArray:
    """Give all pairs' root mean square distance over the patches that count in either: (n, n) float32.

    One product a block of patches, all photographs at once: every token is normalised once, and none is kept. Without
    any such patch a pair is infinitely far apart.
    """
    n, dim = len(tokens), tokens[0].shape[1]
    counted = np.stack([p.reshape(-1) for p in patches])
    step = max(1, _BLOCK_VALUES // (n * dim))
    products = np.zeros((n, n), dtype=np.float32)
    for low in range(0, counted.shape[1], step):
        block: FloatArray = np.stack([t[low : low + step].astype(np.float32) for t in tokens])
        rows = l2_normalise(block.reshape(-1, dim)).reshape(block.shape)
        rows[~counted[:, low : low + step]] = 0
        # Distances stay, and the products get small, so that float32 suffices.
        rows -= rows.mean(axis=0)
        flat = rows.reshape(n, -1)
        products += flat @ flat.T
        progress(min(1.0, (low + step) / counted.shape[1]))
    norms = np.diagonal(products)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0)
    own = counted.astype(np.float32)
    sizes = own.sum(axis=1)
    either = sizes[:, None] + sizes[None, :] - own @ own.T
    squared[either == 0] = np.inf
    distances: FloatArray = np.sqrt(squared / np.maximum(either, 1))
    return distances
