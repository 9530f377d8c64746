"""Stored photographs: the posted bytes unchanged, once each, under names that never change.

The sidecar is written first and the image last, so a listed sample is a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.identity import Part
from orchestrator.domain.moments import utc_text
from orchestrator.domain.samples import (
    Label,
    NewSample,
    StoredSample,
    is_image_name,
    may_hold,
    safe_name,
    sample_name,
    sidecar_name,
)
from orchestrator.errors import NotFound
from orchestrator.storage import jsonfiles
from orchestrator.storage.files import FileStore


@dataclass(frozen=True, slots=True)
class Listing:
    """The photographs of one label, by name, and whether each has a sidecar."""

    files: tuple[str, ...]
    has_meta: tuple[bool, ...]


class DatasetStore:
    """Reads and writes `datasets/<recipe>/<pair>/{ok,ng}/`."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def folder(self, part: Part, label: Label) -> str:
        """Give the key of a label's folder."""
        return f"{part.dataset_prefix}/{label}"

    def add(self, part: Part, label: Label, samples: Sequence[NewSample]) -> list[StoredSample]:
        """Store samples, all or none; bytes that are known already keep their first name.

        Raises StoreUnavailable.
        """
        folder = self.folder(part, label)
        stored: list[StoredSample] = []
        with self._store.lock(folder):
            known = self._by_digest8(folder)
            with contextlib.ExitStack() as undo:
                for sample in samples:
                    name = self._known_name(folder, known.get(sample.sha256[:8], []), sample.sha256)
                    if name is None:
                        stored.append(self._create(folder, part, label, sample, undo))
                        known.setdefault(sample.sha256[:8], []).append(stored[-1].name)
                    else:
                        stored.append(StoredSample(name, label, sample.sha256, added=False))
                undo.pop_all()
        return stored

    def discard(self, part: Part, stored: Sequence[StoredSample]) -> None:
        """Take back what `add` has just added."""
        for sample in stored:
            if sample.added:
                self.remove(part, sample.label, sample.name)

    def listing(self, part: Part, label: Label) -> Listing:
        """List the stored photographs of a label, oldest name first."""
        names = self._store.names(self.folder(part, label))
        present = set(names)
        files = tuple(n for n in names if is_image_name(n))
        return Listing(files, tuple(sidecar_name(n) in present for n in files))

    def read(self, part: Part, label: Label, filename: str) -> bytes:
        """Read a photograph's bytes.

        Raises NotFound.
        """
        name = safe_name(filename)
        if name is None or not is_image_name(name):
            raise NotFound("file not found")
        try:
            return self._store.read(f"{self.folder(part, label)}/{name}")
        except NotFound as error:
            raise NotFound("file not found") from error

    def find(self, part: Part, label: Label, sha256: str) -> tuple[str, bytes]:
        """Find a photograph by its digest: the oldest name that it is stored under, and its bytes.

        Raises NotFound.
        """
        for name in self.listing(part, label).files:
            if may_hold(name, sha256):
                # One that is deleted meanwhile is no longer there.
                with contextlib.suppress(NotFound):
                    data = self.read(part, label, name)
                    if hashlib.sha256(data).hexdigest() == sha256:
                        return name, data
        raise NotFound(f"no stored {label} photograph of {part.label} has the digest {sha256[:12]}.")

    def meta(self, part: Part, label: Label, filename: str) -> dict[str, Any]:
        """Read a photograph's sidecar as it is stored; empty where it has none.

        Raises StoreCorrupt.
        """
        name = safe_name(filename)
        if name is None:
            return {}
        return jsonfiles.read(self._store, f"{self.folder(part, label)}/{sidecar_name(name)}") or {}

    def remove(self, part: Part, label: Label, filename: str) -> bool:
        """Remove a photograph and its sidecar; false where there was none."""
        name = safe_name(filename)
        if name is None or not is_image_name(name):
            return False
        folder = self.folder(part, label)
        # Under the lock, so that an upload of the same bytes never answers a name that is going.
        with self._store.lock(folder):
            removed = self._store.delete(f"{folder}/{name}")
            self._store.delete(f"{folder}/{sidecar_name(name)}")
        return removed

    def clear(self, part: Part, label: Label) -> int:
        """Remove all of a label; counts photographs and sidecars."""
        folder = self.folder(part, label)
        with self._store.lock(folder):
            names = self._store.names(folder)
            # Photographs first: what is left of an interrupted clear is sidecars, which are never listed.
            ordered = sorted(names, key=lambda n: not is_image_name(n))
            return sum(self._store.delete(f"{folder}/{name}") for name in ordered)

    def _create(
        self, folder: str, part: Part, label: Label, sample: NewSample, undo: contextlib.ExitStack
    ) -> StoredSample:
        when = datetime.now(UTC)
        while True:
            name = sample_name(label, when, sample.sha256, sample.image_format)
            if self._store.etag(f"{folder}/{name}") is None:
                break
            when += timedelta(milliseconds=1)
        sidecar = _sidecar(part, label, name, when, sample)
        for key, data in (
            (f"{folder}/{sidecar_name(name)}", jsonfiles.dump(sidecar)),
            (f"{folder}/{name}", sample.data),
        ):
            undo.callback(self._store.delete, key)
            self._store.write(key, data)
        return StoredSample(name, label, sample.sha256)

    def _by_digest8(self, folder: str) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self._store.names(folder):
            if is_image_name(name):
                names.setdefault(name.rsplit(".", 1)[0].rsplit("_", 1)[-1], []).append(name)
        return names

    def _known_name(self, folder: str, names: Sequence[str], sha256: str) -> str | None:
        for name in names:
            if hashlib.sha256(self._store.read(f"{folder}/{name}")).hexdigest() == sha256:
                return name
        return None


def _sidecar(part: Part, label: Label, name: str, when: datetime, sample: NewSample) -> dict[str, Any]:
    stamp = utc_text(when)
    sidecar: dict[str, Any] = {
        "filename": sample.filename or name,
        "source": "upload",
        "timestamp_utc": stamp,
    }
    # The published client reads these as numbers and texts that are never null.
    sidecar.update({k: v for k, v in sample.meta.items() if v is not None})
    sidecar.update(role_id=part.role_id, roi_id=part.roi_id, recipe_id=part.recipe_id, label=label)
    sidecar.update(created_at_utc=sidecar.get("created_at_utc") or stamp, sha256=sample.sha256)
    sidecar.setdefault("stored_as", name)
    return sidecar
