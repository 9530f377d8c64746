"""Memory banks that other generations of servers left behind: read on a miss, never written.

Layouts: contract A2 and B1.3. Only the `default` recipe falls back on them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from orchestrator.domain.bank import BankRecord
from orchestrator.domain.identity import DEFAULT_RECIPE, Target
from orchestrator.errors import NotFound, PatchlightError, StoreCorrupt
from orchestrator.storage import jsonfiles
from orchestrator.storage.banks import decode_bank, half_rows, legacy_metadata
from orchestrator.storage.files import ETag, FileStore

_UNKNOWN_GRID = (1, 1)
_PUBLISHED_KEY = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}", re.ASCII)


class LegacyBanks:
    """Looks for a target's bank in the published layouts below several roots."""

    def __init__(self, stores: tuple[FileStore, ...]) -> None:
        self._stores = stores

    def etag(self, target: Target) -> ETag | None:
        """Give a value that changes with the file; None where there is no legacy bank."""
        return next((etag for _, _, etag in self._candidates(target)), None)

    def read(self, target: Target) -> BankRecord:
        """Read the first legacy bank found.

        Raises NotFound, StoreCorrupt.
        """
        for store, key, _ in self._candidates(target):
            data = store.read(key)
            return _decode_array(data, store, key) if key.endswith(".npy") else decode_bank(data, key)
        raise NotFound(f"{target.part.label}: no legacy bank")

    def calibration(self, target: Target) -> dict[str, Any] | None:
        """Read the calibration beside the legacy bank; None where there is none or it is unreadable."""
        for store, key, _ in self._candidates(target):
            folder = key.rsplit("/", 1)[0] if "/" in key else None
            names = [key[: -len(".npz")] + "_calib.json"] if key.endswith(".npz") else []
            names += [f"{folder}/calibration.json", f"{folder}/calib.json"] if folder else []
            for name in names:
                try:
                    content = jsonfiles.read(store, name)
                except PatchlightError:
                    continue
                if content is not None:
                    return content
            return None
        return None

    def _candidates(self, target: Target) -> Iterator[tuple[FileStore, str, ETag]]:
        if target.part.recipe_id != DEFAULT_RECIPE:
            return
        for store in self._stores:
            for key in _keys(target):
                etag = store.etag(key)
                if etag is not None:
                    yield store, key, etag


def _keys(target: Target) -> Iterator[str]:
    # The published server kept dots in a model key's folder; ours encodes such a key.
    if _PUBLISHED_KEY.fullmatch(target.model_key):
        yield f"recipes/{DEFAULT_RECIPE}/{target.model_key}/{target.part.pair}.npz"
    role, roi = target.part.role_id, target.part.roi_id
    if _is_plain(role) and _is_plain(roi):
        yield f"{role}_{roi}.npz"
        yield f"{role}/{roi}/memory.npz"
        yield f"{role}/{roi}/embeddings.npy"


def _is_plain(identifier: str) -> bool:
    return identifier not in (".", "..") and not set(identifier) & set("/\\\0")


def _decode_array(data: bytes, store: FileStore, key: str) -> BankRecord:
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise StoreCorrupt(f"{key}: is no array")
    try:
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise StoreCorrupt(f"{key}: {error}") from error
    none = np.zeros(0, dtype=np.int64)
    grid = _grid(store, key.rsplit("/", 1)[0])
    return BankRecord(half_rows(rows, key), grid, legacy_metadata(len(rows), {}), none, none)


def _grid(store: FileStore, folder: str) -> tuple[int, int]:
    try:
        shape = (jsonfiles.read(store, f"{folder}/manifest.json") or {}).get("token_shape")
        return (int(shape[0]), int(shape[1])) if shape else _UNKNOWN_GRID
    except (PatchlightError, TypeError, ValueError, IndexError, KeyError, json.JSONDecodeError):
        return _UNKNOWN_GRID
