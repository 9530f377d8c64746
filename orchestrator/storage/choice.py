"""Which backbone a data root has chosen: `backbone.json`, written once and changed only on request."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from orchestrator.errors import StoreCorrupt
from orchestrator.storage import jsonfiles
from orchestrator.storage.files import ETag, FileStore

_KEY = "backbone.json"


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """The backbone that new banks are built with. reason: why not the preferred one, where that is so."""

    name: str
    version: int
    fingerprint: str
    chosen_at_utc: str
    reason: str | None = None


class ChoiceStore:
    """Reads and writes the data root's choice."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def etag(self) -> ETag | None:
        """Give a value that changes with every choice."""
        return self._store.etag(_KEY)

    def read(self) -> BackboneChoice | None:
        """Read the choice; None for a new data root.

        Raises StoreCorrupt.
        """
        content = jsonfiles.read(self._store, _KEY)
        if content is None:
            return None
        try:
            return BackboneChoice(**content)
        except TypeError as error:
            raise StoreCorrupt(f"{_KEY}: {error}") from error

    def write(self, choice: BackboneChoice, *, replace: bool) -> None:
        """Record a choice; without `replace`, the first one of several processes stands."""
        data = jsonfiles.dump(asdict(choice))
        if replace:
            self._store.write(_KEY, data)
        else:
            self._store.create(_KEY, data)
