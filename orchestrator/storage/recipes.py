"""A recipe's lock on mm_per_px: written once, create-only, so that the first value wins across processes."""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.domain.scale import check_against_lock
from orchestrator.errors import StoreCorrupt
from orchestrator.storage import jsonfiles
from orchestrator.storage.files import FileStore


class RecipeStore:
    """Reads and writes `recipes/<recipe>/recipe_meta.json`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def mm_per_px(self, recipe_id: str) -> float | None:
        """Give the locked scale; None where the recipe has none yet.

        Raises StoreCorrupt.
        """
        key = _key(recipe_id)
        meta = jsonfiles.read(self._store, key)
        if meta is None:
            return None
        value = meta.get("mm_per_px")
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise StoreCorrupt(f"{key}: mm_per_px is {value!r}")
        return float(value)

    def check(self, recipe_id: str, value: float) -> None:
        """Compare a value with the lock, if there is one.

        Raises MmPerPxMismatch.
        """
        locked = self.mm_per_px(recipe_id)
        if locked is not None:
            check_against_lock(value, locked, recipe_id)

    def lock(self, recipe_id: str, value: float) -> None:
        """Lock the recipe to a value, or compare with the one that is locked already.

        Raises MmPerPxMismatch.
        """
        self.check(recipe_id, value)
        if self.mm_per_px(recipe_id) is not None:
            return
        meta = {"mm_per_px": value, "created_at_utc": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if not self._store.create(_key(recipe_id), jsonfiles.dump(meta)):
            self.check(recipe_id, value)

    def unlock(self, recipe_id: str) -> None:
        """Take back a lock that the failed request itself has made."""
        self._store.delete(_key(recipe_id))


def _key(recipe_id: str) -> str:
    return f"recipes/{recipe_id}/recipe_meta.json"
