"""A memory bank without one of its photographs, re-covered from the tokens of the others.

Taking a photograph's rows out leaves holes that only the others' own rows can fill, and a bank may keep more rows of a
photograph than its share, or fewer. So as many of the last rows as were taken out are given up too, where they can be
picked again: the first rows of a greedy selection are a greedy selection of their own. Then the cover is completed, row
by row where it is worst, to exactly what the rate asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.domain.bank import BankRecord
from orchestrator.patchcore.coreset import extend_coreset, select_coreset
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.banks import LoadedBank
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import SEED


def without(
    bank: LoadedBank,
    sha256: str,
    others: Mapping[str, Embedded],
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
) -> BankRecord:
    """Give the bank without a photograph's rows. At least one other photograph is in it.

    others: tokens of the bank's other photographs, by digest; of one that is missing here the rows in the bank stay,
    and count as all it has.
    """
    record, metadata = bank.record, bank.record.metadata
    removed = metadata.sample_sha256.index(sha256)
    remaining = tuple(d for d in metadata.sample_sha256 if d != sha256)
    sample_of, patch_of, rows = _rows(remaining, others, bank.search.memory.embeddings.shape[1])
    kept = np.flatnonzero(record.row_sample != removed)
    kept_sample = record.row_sample[kept] - (record.row_sample[kept] > removed)
    movable = np.array([d in others for d in remaining])[kept_sample]
    n_embeddings = len(rows) + int((~movable).sum())
    rate = metadata.coreset_rate_applied
    wanted = max(1, math.ceil(n_embeddings * rate))
    stays = _stays(movable, wanted, n_embeddings, len(record.row_sample) - len(kept))
    kept, kept_sample = kept[stays], kept_sample[stays]
    # By where they come from, not by distance: float16 has moved the bank's own rows a little.
    stride = max(record.grid[0] * record.grid[1], int(record.row_patch.max()) + 1)
    free = ~np.isin(sample_of * stride + patch_of, kept_sample * stride + record.row_patch[kept])
    candidates = np.flatnonzero(free)
    count = min(max(wanted - len(kept), 0), len(candidates))
    if count == len(candidates):
        picked = candidates
    elif len(kept) == 0:
        picked = candidates[select_coreset(rows[candidates], rate, seed=SEED, progress=progress)]
    else:
        centres = bank.search.memory.embeddings[kept]
        picked = candidates[
            extend_coreset(centres, rows[candidates], count, progress=progress, threads=threads)
        ]
    extra = {k: v for k, v in metadata.extra.items() if k != "calibration"}
    return BankRecord(
        np.concatenate([record.embeddings[kept], rows[picked].astype(np.float16)]),
        record.grid,
        replace(metadata, n_embeddings=n_embeddings, sample_sha256=remaining, extra=extra),
        np.concatenate([kept_sample, sample_of[picked]]),
        np.concatenate([record.row_patch[kept], patch_of[picked]]),
    )


def _rows(
    digests: tuple[str, ...], others: Mapping[str, Embedded], dim: int
) -> tuple[IndexArray, IndexArray, FloatArray]:
    known = [(place, others[d]) for place, d in enumerate(digests) if d in others]
    if not known:
        none = np.empty(0, dtype=np.int64)
        return none, none, np.empty((0, dim), dtype=np.float32)
    places = np.array([place for place, _ in known], dtype=np.int64)
    return (
        np.repeat(places, [int(e.patches.sum()) for _, e in known]),
        np.concatenate([np.flatnonzero(e.patches) for _, e in known]),
        l2_normalise(np.concatenate([e.rows for _, e in known])),
    )


def _stays(
    movable: np.ndarray[tuple[int], np.dtype[np.bool_]], wanted: int, n: int, taken_out: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which of the kept rows, in order of selection, stay before the cover is completed."""
    stays = np.ones(len(movable), dtype=np.bool_)
    if wanted < n:
        size = min(len(movable), wanted)
        given_up = len(movable) - size + min(taken_out, size // 2)
        places = np.flatnonzero(movable)
        stays[places[max(0, len(places) - given_up) :]] = False
    return stays
