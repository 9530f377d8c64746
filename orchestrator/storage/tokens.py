"""Patch tokens of photographs, kept so that no photograph is embedded twice: a cache, never the truth.

Key: the photograph's digest, the backbone's fingerprint, and a view: what of the photograph was looked at, and how.
The least recently used entries go first where the bound is reached; a damaged entry is a miss; what cannot be written
is not kept. Knows arrays, not what they mean.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import numpy as np
import structlog

from orchestrator.domain.arrays import HalfArray, MaskArray
from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.storage.archives import DAMAGED
from orchestrator.storage.files import FileStore

ROOT = "cache/tokens"
_EVICT_TO = 0.9

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Names an entry. sha256: of the photograph's bytes. fingerprint: of the backbone. view: of the ROI and options."""

    sha256: str
    fingerprint: str
    view: str

    @property
    def path(self) -> str:
        """The key below the data root."""
        return f"{ROOT}/{self.fingerprint[:12]}/{self.sha256}_{self.view[:16]}.npz"


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """One photograph's tokens. tokens: (N, D) float16. patches: (R, C) bool, N = R*C. crop: (H, W) px."""

    tokens: HalfArray
    patches: MaskArray
    crop: tuple[int, int]


class TokenStore:
    """Reads and writes `cache/tokens/<fingerprint12>/<sha256>_<view16>.npz`, `max_bytes` in all; 0 keeps none."""

    def __init__(self, store: FileStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        # What may still be written before the folder is looked through again; nobody has looked yet.
        self._room = 0
        self._guard = threading.Lock()

    def find(self, key: TokenKey) -> StoredTokens | None:
        """Give an entry; None where there is none, or none that can be read."""
        try:
            data = self._store.read(key.path)
        except (NotFound, StoreUnavailable):
            return None
        found = _decode(data, key)
        if found is None:
            _log.warning("tokens.damaged", key=key.path)
            self._forget(key.path)
        else:
            self._store.touch(key.path)
        return found

    def keep(self, key: TokenKey, entry: StoredTokens) -> bool:
        """Write an entry, as far as there is room; false where it could not be kept."""
        if self._max_bytes == 0:
            return False
        data = _encode(entry, key)
        if len(data) > self._max_bytes:
            return False
        try:
            with self._guard:
                if len(data) > self._room:
                    self._room = self._make_room(len(data))
                self._room -= len(data)
            self._store.write(key.path, data, durable=False)
        except StoreUnavailable as error:
            _log.warning("tokens.not_kept", key=key.path, error=error.message)
            return False
        return True

    def forget(self, sha256: str) -> None:
        """Remove every entry of a photograph, as far as they can be listed: what stays is evicted in its turn."""
        try:
            for folder in self._store.folders(ROOT):
                for name in self._store.names(f"{ROOT}/{folder}"):
                    if name.startswith(f"{sha256}_"):
                        self._forget(f"{ROOT}/{folder}/{name}")
        except StoreUnavailable as error:
            _log.warning("tokens.not_removed", sha256=sha256, error=error.message)

    def _make_room(self, needed: int) -> int:
        entries = sorted(self._store.entries(ROOT), key=lambda e: e.used_ns)
        size = sum(e.size for e in entries)
        if size + needed > self._max_bytes:
            # Further than to the bound, so that not every write looks through the folder.
            goal = min(int(self._max_bytes * _EVICT_TO), self._max_bytes - needed)
            for entry in entries:
                if size <= goal:
                    break
                self._forget(entry.key)
                size -= entry.size
        # Other processes write too: each looks again after its share of what is free.
        return max(needed, (self._max_bytes - size) // 8)

    def _forget(self, key: str) -> None:
        try:
            self._store.delete(key)
        except StoreUnavailable as error:
            _log.warning("tokens.not_removed", key=key, error=error.message)


def _encode(entry: StoredTokens, key: TokenKey) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        tokens=entry.tokens.astype(np.float16, copy=False),
        patches=entry.patches,
        crop=np.array(entry.crop, dtype=np.int64),
        fingerprint=np.array(key.fingerprint),
        view=np.array(key.view),
    )
    return buffer.getvalue()


def _decode(data: bytes, key: TokenKey) -> StoredTokens | None:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            tokens, patches = archive["tokens"], archive["patches"]
            height, width = (int(side) for side in archive["crop"])
            own = str(archive["fingerprint"]), str(archive["view"])
    except DAMAGED:
        return None
    sound = (
        own == (key.fingerprint, key.view)
        and tokens.dtype == np.float16
        and tokens.ndim == 2
        and patches.dtype == np.bool_
        and patches.ndim == 2
        and patches.size == len(tokens)
        and min(height, width) >= 1
    )
    return StoredTokens(tokens, patches, (height, width)) if sound else None
