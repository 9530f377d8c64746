"""JSON artifacts: one object a key, UTF-8, no NaN."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import NotFound, StoreCorrupt
from orchestrator.storage.files import FileStore


def dump(content: Mapping[str, Any]) -> bytes:
    """Encode an object."""
    return (json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def load(data: bytes, key: str) -> dict[str, Any]:
    """Decode an object.

    Raises StoreCorrupt where the bytes are none.
    """
    try:
        # Other servers' sidecars hold NaN, which JSON has no word for.
        content = json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"{key}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise StoreCorrupt(f"{key}: is not a JSON object")
    return content


def read(store: FileStore, key: str) -> dict[str, Any] | None:
    """Read an object; None where there is none.

    Raises StoreCorrupt, StoreUnavailable.
    """
    try:
        return load(store.read(key), key)
    except NotFound:
        return None
