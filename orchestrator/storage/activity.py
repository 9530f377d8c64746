"""What the fits of all processes are doing: a lease a fit with a heartbeat, and the last one that ended.

A lease is not a lock: it tells people, it guards nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.errors import PatchlightError
from orchestrator.storage import jsonfiles
from orchestrator.storage.files import FileStore

HEARTBEAT_S = 2.0
DEAD_AFTER_S = 10.0
_LEASES = "status/fits"
_LAST = "status/last_fit.json"


@dataclass(frozen=True, slots=True)
class Activity:
    """Fits now, over all processes. progress: of the farthest running one, 0 to 1."""

    running: int
    waiting: int
    progress: float | None
    last_train_ts: str | None
    last_coreset_size: int


def new_lease() -> str:
    """Name a lease."""
    return f"{os.getpid()}-{secrets.token_hex(6)}"


class ActivityStore:
    """Reads and writes `status/`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def beat(self, lease: str, state: Literal["waiting", "running"], label: str, progress: float) -> None:
        """Begin a lease, or say that its fit is alive."""
        content = {
            "state": state,
            "label": label,
            "progress": progress,
            "ts": time.time(),
            "pid": os.getpid(),
        }
        self._store.write(f"{_LEASES}/{lease}.json", jsonfiles.dump(content))

    def close(self, lease: str) -> None:
        """End a lease."""
        self._store.delete(f"{_LEASES}/{lease}.json")

    def completed(self, ts: str, coreset_size: int) -> None:
        """Record the last completed fit."""
        self._store.write(_LAST, jsonfiles.dump({"last_train_ts": ts, "coreset_size": coreset_size}))

    def read(self) -> Activity:
        """Read all live leases and the last completed fit; sweeps leases that died long ago."""
        live: list[dict[str, Any]] = []
        now = time.time()
        for name in self._store.names(_LEASES):
            lease = self._lease(f"{_LEASES}/{name}")
            if lease is None:
                continue
            age = now - float(lease.get("ts", 0.0))
            if age <= DEAD_AFTER_S:
                live.append(lease)
            elif age > 10 * DEAD_AFTER_S:
                self._store.delete(f"{_LEASES}/{name}")
        last = jsonfiles.read(self._store, _LAST) or {}
        running = [float(lease.get("progress", 0.0)) for lease in live if lease.get("state") == "running"]
        return Activity(
            running=len(running),
            waiting=len(live) - len(running),
            progress=max(running, default=None),
            last_train_ts=last.get("last_train_ts"),
            last_coreset_size=int(last.get("coreset_size", 0)),
        )

    def _lease(self, key: str) -> dict[str, Any] | None:
        try:
            return jsonfiles.read(self._store, key)
        except PatchlightError:
            return None
