"""Memory banks as `.npz`: the commit point of a fit, always whole.

Layout: contract A6. A bank without our fingerprint at its place is a legacy one (B1.3: emb, token_h, token_w).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.arrays import HalfArray
from orchestrator.domain.bank import BankIndex, BankMetadata, BankRecord
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.identity import Target
from orchestrator.domain.memory_options import MemoryOptions, read_options
from orchestrator.errors import NotFound, StoreCorrupt
from orchestrator.storage import jsonfiles
from orchestrator.storage.archives import DAMAGED
from orchestrator.storage.files import ETag, FileStore

_NO_ROWS = np.zeros(0, dtype=np.int64)


class BankStore:
    """Reads and writes `<stem>.npz` and the conveniences beside it."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def etag(self, target: Target) -> ETag | None:
        """Give a value that changes with every commit; None where there is no bank."""
        return self._store.etag(_key(target))

    def read(self, target: Target) -> BankRecord:
        """Read the current bank.

        Raises NotFound, StoreCorrupt, StoreUnavailable.
        """
        key = _key(target)
        return decode_bank(self._store.read(key), key)

    def write(self, target: Target, record: BankRecord) -> None:
        """Commit a bank; the caller holds the target's lock.

        Raises StoreUnavailable.
        """
        self._store.write(_key(target), encode_bank(record))

    def stage_index(self, target: Target, data: bytes) -> None:
        """Write the index of a bank that is about to be committed, beside the one in use."""
        self._store.write(_staged_index_key(target), data)

    def drop_staged_index(self, target: Target) -> None:
        """Take back an index whose bank was not committed."""
        self._store.delete(_staged_index_key(target))

    def settle_index(self, target: Target, *, has_index: bool) -> None:
        """Move the committed bank's index to its place; remove what lies there where it has none.

        Until then readers find it where it was staged, by its checksum.
        """
        if has_index:
            self._store.move(_staged_index_key(target), _index_key(target))
        else:
            self._store.delete(_index_key(target))
            self._store.delete(_staged_index_key(target))

    def settle_left_index(self, target: Target) -> None:
        """Move the current bank's index to its place where its commit was interrupted before that.

        The caller holds the target's lock. Raises StoreUnavailable.
        """
        staged = _staged_index_key(target)
        if self._store.etag(staged) is None:
            return
        try:
            described = self.read(target).metadata.index
        except (NotFound, StoreCorrupt):
            return
        if described is not None and hashlib.sha256(self._store.read(staged)).hexdigest() == described.sha256:
            self._store.move(staged, _index_key(target))

    def index_etag(self, target: Target) -> tuple[ETag | None, ETag | None]:
        """Give a value that changes with every write of an index."""
        return self._store.etag(_index_key(target)), self._store.etag(_staged_index_key(target))

    def indexes(self, target: Target) -> Iterator[bytes]:
        """Give the bytes of every index there is; which one belongs to a bank is for its checksum to tell."""
        # The first place again: an index may move there between the two reads.
        for key in (_index_key(target), _staged_index_key(target), _index_key(target)):
            try:
                yield self._store.read(key)
            except NotFound:
                continue

    def describe(
        self, target: Target, manifest: dict[str, Any], fit_line: dict[str, Any] | None = None
    ) -> None:
        """Write what people read at a glance: the manifest, and one line a fit. Never read back as truth."""
        self._store.write(f"{target.stem}_manifest.json", jsonfiles.dump(manifest))
        if fit_line is not None:
            self._store.append(f"{target.stem}_fit.log", json.dumps(fit_line, ensure_ascii=False) + "\n")

    def described_generation(self, target: Target) -> int:
        """Give the generation that the manifest beside the bank names; 0 where there is none to read."""
        try:
            content = jsonfiles.read(self._store, f"{target.stem}_manifest.json") or {}
        except StoreCorrupt:
            return 0
        generation = content.get("bank_generation")
        return generation if isinstance(generation, int) else 0

    def fitted_pairs(self, recipe_id: str) -> list[str]:
        """List the pair names of all banks of a recipe, whatever their model key, sorted."""
        root = f"recipes/{recipe_id}"
        pairs: set[str] = set()
        for folder in self._store.folders(root):
            pairs.update(n[:-4] for n in self._store.names(f"{root}/{folder}") if n.endswith(".npz"))
        return sorted(pairs)


def encode_bank(record: BankRecord) -> bytes:
    """Pack a bank; embeddings as float16, metadata as JSON text."""
    buffer = io.BytesIO()
    axis = record.foreground
    entries: dict[str, Any] = {
        "emb": record.embeddings.astype(np.float16, copy=False),
        "token_h": np.int64(record.grid[0]),
        "token_w": np.int64(record.grid[1]),
        "row_sample": record.row_sample,
        "row_patch": record.row_patch,
        "metadata": np.array(json.dumps(asdict(record.metadata), ensure_ascii=False, allow_nan=False)),
        # The direction, then the cut.
        **({} if axis is None else {"foreground": np.append(axis.direction, np.float32(axis.cut))}),
    }
    np.savez(buffer, **entries)
    return buffer.getvalue()


def decode_bank(data: bytes, key: str) -> BankRecord:
    """Unpack a bank, ours or a legacy one.

    Raises StoreCorrupt where the bytes are none.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            embeddings = np.asarray(archive["emb"])
            grid = int(archive["token_h"]), int(archive["token_w"])
            text = str(archive["metadata"]) if "metadata" in archive else "{}"
            ours = "row_sample" in archive and "row_patch" in archive
            row_sample = archive["row_sample"].astype(np.int64) if ours else _NO_ROWS
            row_patch = archive["row_patch"].astype(np.int64) if ours else _NO_ROWS
            axis = np.asarray(archive["foreground"]) if "foreground" in archive else None
    except DAMAGED as error:
        raise StoreCorrupt(f"{key}: cannot be read as a memory bank: {error}") from error
    if min(grid) < 1:
        raise StoreCorrupt(f"{key}: grid {grid}")
    metadata = _metadata(text, len(embeddings), key)
    rows = half_rows(embeddings, key)
    foreground = _foreground(axis, rows.shape[1], key) if metadata.options.foreground else None
    return BankRecord(rows, grid, metadata, row_sample, row_patch, foreground)


def half_rows(embeddings: NDArray[Any], key: str) -> HalfArray:
    """Give stored rows as (M, D) float16.

    Raises StoreCorrupt where they are not (M, D) finite floats within that type's range.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape or embeddings.dtype.kind != "f":
        raise StoreCorrupt(f"{key}: embeddings {embeddings.dtype} {embeddings.shape}")
    with np.errstate(over="ignore"):
        rows = embeddings.astype(np.float16, copy=False)
    if not np.isfinite(rows).all():
        raise StoreCorrupt(f"{key}: embeddings are not finite")
    return rows


def _metadata(text: str, rows: int, key: str) -> BankMetadata:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"{key}: metadata is not JSON") from error
    if not isinstance(content, dict) or not content.get("fingerprint"):
        return legacy_metadata(rows, content if isinstance(content, dict) else {})
    try:
        digests = tuple(str(d) for d in content.pop("sample_sha256"))
        options = _options(content.pop("options", {}))
        described = content.pop("index", None)
        index = BankIndex(**described) if described else None
        return BankMetadata(**content, sample_sha256=digests, options=options, index=index)
    except (KeyError, TypeError) as error:
        raise StoreCorrupt(f"{key}: metadata cannot be read: {error}") from error


def _options(content: Any) -> MemoryOptions:
    if not isinstance(content, dict):
        raise TypeError(f"options are {type(content).__name__}")
    return read_options(content)


def _foreground(stored: NDArray[Any] | None, dim: int, key: str) -> ForegroundAxis:
    if stored is None:
        raise StoreCorrupt(f"{key}: is without the foreground axis that its options ask for")
    if stored.dtype != np.float32 or stored.shape != (dim + 1,) or not np.isfinite(stored).all():
        raise StoreCorrupt(f"{key}: foreground {stored.dtype} {stored.shape} is no axis of {dim} dimensions")
    return ForegroundAxis(stored[:-1], float(stored[-1]))


def legacy_metadata(rows: int, content: dict[str, Any]) -> BankMetadata:
    """Describe a bank that another generation of servers wrote."""
    return BankMetadata(
        generation=0,
        backbone=None,
        backbone_version=None,
        fingerprint=None,
        n_embeddings=rows,
        coreset_rate_requested=1.0,
        coreset_rate_applied=1.0,
        mm_per_px=None,
        fit_started_at=None,
        fit_duration_s=0.0,
        source="legacy",
        extra=content,
    )


def _index_key(target: Target) -> str:
    return f"{target.stem}_index.faiss"


def _staged_index_key(target: Target) -> str:
    return f"{target.stem}_next_index.faiss"


def _key(target: Target) -> str:
    return f"{target.stem}.npz"
