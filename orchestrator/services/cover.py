"""A memory bank with photographs more, or with one less, still covering as well as one that is built anew.

What is added: the rows that the bank has stay, and of the new photographs' rows those enter that cover best beside
them. A row that was passed over when its photograph was added may be picked later: the photographs since the last
selection among all stay candidates, and once they outnumber the others all are selected among anew. Without the first
a bank that grows by one photograph at a time ends with a cover radius a quarter wider than a new bank's, without the
second the old rows' radius stands while the rate asks for ever more rows.

What is removed: taking a photograph's rows out leaves holes that only the others' own rows can fill, and a bank may
keep more rows of a photograph than its share, or fewer. So as many of the last rows as were taken out are given up too,
where they can be picked again: the first rows of a greedy selection are a greedy selection of their own. Then the cover
is completed where it is worst, to what the rate asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.errors import NotEnoughSamples
from orchestrator.patchcore.coreset import extend_coreset, k_centers
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.banks import LoadedBank
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import SEED

ACCUMULATED = "accumulated"
"""Of a bank's metadata: how many of its photographs, the last ones, were added since the last selection among all."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a selection runs. progress: called with the share done."""

    progress: Callable[[float], None] | None = None
    threads: int = 1


def candidates(metadata: BankMetadata, added: int) -> tuple[str, ...]:
    """Give the digests whose rows may enter beside those of `added` new photographs: none, the latest, or all."""
    if metadata.coreset_rate_applied >= 1:
        return ()
    held, since = metadata.sample_sha256, _since(metadata)
    return held if since + added > len(held) - since else held[len(held) - since :]


def extended(
    bank: LoadedBank, added: Mapping[str, Embedded], old: Mapping[str, Embedded], work: Work
) -> BankRecord:
    """Give the bank with photographs that it does not hold. Both by digest; old: those that `candidates` names.

    Of an old photograph that is missing the bank's rows stay.
    """
    record, metadata = bank.record, bank.record.metadata
    anew = metadata.coreset_rate_applied < 1 and len(candidates(metadata, len(added))) == len(
        metadata.sample_sha256
    )
    digests = (*metadata.sample_sha256, *added)
    n_embeddings = metadata.n_embeddings + sum(int(e.patches.sum()) for e in added.values())
    known = np.array([d in old for d in metadata.sample_sha256])
    kept = np.flatnonzero(~known[record.row_sample]) if anew else np.arange(len(record.row_sample))
    extra = dict(metadata.extra)
    if anew and known.all():
        extra.pop(ACCUMULATED, None)
    else:
        extra[ACCUMULATED] = _since(metadata) + len(added)
    grown = replace(metadata, n_embeddings=n_embeddings, sample_sha256=digests, extra=extra)
    return _completed(bank, kept, record.row_sample[kept], {**old, **added}, grown, work)


def without(bank: LoadedBank, sha256: str, others: Mapping[str, Embedded], work: Work) -> BankRecord:
    """Give the bank without a photograph's rows. At least one other photograph is in it.

    others: tokens of the bank's other photographs, by digest; of one that is missing the bank's rows stay, and count as
    all it has.

    Raises NotEnoughSamples where no row would be left.
    """
    record, metadata = bank.record, bank.record.metadata
    removed = metadata.sample_sha256.index(sha256)
    remaining = tuple(d for d in metadata.sample_sha256 if d != sha256)
    kept = np.flatnonzero(record.row_sample != removed)
    samples = record.row_sample[kept] - (record.row_sample[kept] > removed)
    movable = np.array([d in others for d in remaining])[samples]
    n_embeddings = sum(int(e.patches.sum()) for e in others.values()) + int((~movable).sum())
    wanted = _wanted(n_embeddings, metadata.coreset_rate_applied)
    if wanted < n_embeddings:
        stays = _stays(movable, wanted, len(record.row_sample) - len(kept))
        kept, samples = kept[stays], samples[stays]
    extra = dict(metadata.extra)
    if len(others) == len(remaining):
        extra.pop(ACCUMULATED, None)
    else:
        extra[ACCUMULATED] = min(_since(metadata), len(remaining))
    if n_embeddings == 0:
        raise NotEnoughSamples(
            "refit: every patch in the memory is of this photograph, and the others that it holds are neither "
            "stored nor cached, so nothing would be left. Upload one of those again, fit from other photographs first, "
            "or delete it without refit."
        )
    shrunk = replace(metadata, n_embeddings=n_embeddings, sample_sha256=remaining, extra=extra)
    return _completed(bank, kept, samples, others, shrunk, work)


def _since(metadata: BankMetadata) -> int:
    return min(int(metadata.extra.get(ACCUMULATED, 0)), len(metadata.sample_sha256))


def _wanted(n_embeddings: int, rate: float) -> int:
    return max(1, math.ceil(n_embeddings * rate))


def _stays(movable: MaskArray, wanted: int, taken_out: int) -> MaskArray:
    """Tell which of the kept rows, in order of selection, stay before the cover is completed."""
    size = min(len(movable), wanted)
    given_up = len(movable) - size + min(taken_out, size // 2)
    places = np.flatnonzero(movable)
    stays = np.ones(len(movable), dtype=np.bool_)
    stays[places[max(0, len(places) - given_up) :]] = False
    return stays


def _completed(
    bank: LoadedBank,
    kept: IndexArray,
    kept_samples: IndexArray,
    tokens: Mapping[str, Embedded],
    metadata: BankMetadata,
    work: Work,
) -> BankRecord:
    """Give the kept rows and those that cover best beside them. kept_samples: by the places in the new metadata."""
    record, memory = bank.record, bank.search.memory.embeddings
    samples, patches, rows = _rows(metadata.sample_sha256, tokens, memory.shape[1])
    # By where they come from, not by distance: float16 has moved the bank's own rows a little.
    stride = max(record.grid[0] * record.grid[1], int(record.row_patch.max()) + 1)
    taken = kept_samples * stride + record.row_patch[kept]
    free = np.flatnonzero(~np.isin(samples * stride + patches, taken))
    rate = metadata.coreset_rate_applied
    count = min(max(_wanted(metadata.n_embeddings, rate) - len(kept), 0), len(free))
    if count == len(free):
        picked = free
    elif len(kept) == 0:
        found = k_centers(rows[free], count, seed=SEED, progress=work.progress, threads=work.threads)
        picked = free[found.selected]
    else:
        # Whole in most cases, and then not copied.
        offered = rows if len(free) == len(rows) else rows[free]
        centres = memory if len(kept) == len(memory) else memory[kept]
        places = extend_coreset(centres, offered, count, progress=work.progress, threads=work.threads)
        picked = free[places]
    extra = {k: v for k, v in metadata.extra.items() if k != "calibration"}
    return BankRecord(
        np.concatenate([record.embeddings[kept], rows[picked].astype(np.float16)]),
        record.grid,
        replace(metadata, extra=extra, index=None),
        np.concatenate([kept_samples, samples[picked]]),
        np.concatenate([record.row_patch[kept], patches[picked]]),
    )


def _rows(
    digests: Sequence[str], tokens: Mapping[str, Embedded], dim: int
) -> tuple[IndexArray, IndexArray, FloatArray]:
    known = [(place, tokens[d]) for place, d in enumerate(digests) if d in tokens]
    if not known:
        none = np.empty(0, dtype=np.int64)
        return none, none, np.empty((0, dim), dtype=np.float32)
    places = np.array([place for place, _ in known], dtype=np.int64)
    return (
        np.repeat(places, [int(e.patches.sum()) for _, e in known]),
        np.concatenate([np.flatnonzero(e.patches) for _, e in known]),
        l2_normalise(np.concatenate([e.rows for _, e in known])),
    )
