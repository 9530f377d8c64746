"""Where other generations of servers keep samples and memory banks; finds them, judges nothing.

Layouts: contract B1.3 (recipes), B1.5 (`rois`, `datasets/<roi>`), B1.6 (`<role>/<roi>`). Our own layout (A6) is told
apart by its encoded pair names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.domain.identity import read_identifier, split_pair
from orchestrator.domain.samples import Label, parse_label
from orchestrator.errors import InvalidInput, PatchlightError, StoreUnavailable
from orchestrator.services.import_report import ImportLine, readable
from orchestrator.storage.files import FileStore
from orchestrator.storage.recipes import RecipeStore

ROOTS = ("", "data", "models", "data/models")
"""Below the folder that is named: it may be a data root, its parent, or its `data` or `models`."""

_RESERVED = {"rois", "datasets", "recipes", "data", "models"}
_REPLACED = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """One label's photographs. files: every file but sidecars. mm_per_px: the old recipe's lock."""

    store: FileStore
    folder: str
    recipe_id: str
    role_id: str
    roi_id: str
    label: Label
    files: tuple[str, ...]
    sidecars: tuple[str, ...]
    mm_per_px: float | None


@dataclass(frozen=True, slots=True)
class BankFile:
    """One memory bank. calibrations: keys where its calibration may lie. note: how its name was read."""

    store: FileStore
    key: str
    recipe_id: str
    role_id: str
    roi_id: str
    model_key: str
    calibrations: tuple[str, ...]
    mm_per_px: float | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RecipeScale:
    """An old recipe's lock."""

    path: str
    recipe_id: str
    mm_per_px: float


@dataclass(slots=True)
class LegacyLayouts:
    """Everything found. lines: what was found but is not to be imported."""

    scales: list[RecipeScale] = field(default_factory=list)
    samples: list[SampleFolder] = field(default_factory=list)
    banks: list[BankFile] = field(default_factory=list)
    lines: list[ImportLine] = field(default_factory=list)


def find_layouts(source: Path, *, role_id: str, recipe_id: str) -> LegacyLayouts:
    """Look for every published layout; role_id and recipe_id stand in where a layout names none.

    Raises InvalidInput where `source` is no folder.
    """
    if not os.path.isdir(source):
        raise InvalidInput(f"--from: {source} is no folder.")
    found = LegacyLayouts()
    roots = {(source / part).resolve(): None for part in ROOTS if os.path.isdir(source / part)}
    scans = [_Scan(FileStore(root), role_id, recipe_id, found) for root in roots]
    for scan in scans:
        scan.recipes()
        scan.datasets()
    # The published read order: the recipe's own bank, then the flat one, then the folder's.
    nested = [bank for scan in scans for bank in scan.nested_banks()]
    roles = {f.role_id for f in found.samples} | {b.role_id for b in [*found.banks, *nested]}
    for scan in scans:
        found.banks += scan.flat_banks(roles)
    found.banks += nested
    return found


class _Scan:
    """One root."""

    def __init__(self, store: FileStore, role_id: str, recipe_id: str, found: LegacyLayouts) -> None:
        self._store = store
        self._role = role_id
        self._recipe = recipe_id
        self._found = found

    def recipes(self) -> None:
        """Collect B1.3: locks, banks and datasets below `recipes/`."""
        for recipe in self._folders("recipes"):
            scale = self._scale(recipe)
            for folder in self._folders(f"recipes/{recipe}"):
                for name in self._names(f"recipes/{recipe}/{folder}"):
                    if name.endswith(".npz"):
                        self._encoded_bank(recipe, folder, name, scale)
            base = f"recipes/{recipe}/datasets"
            for pair in self._folders(base):
                ids = split_pair(pair)
                if ids is None:
                    self._pass_over(f"{base}/{pair}", "the name is no encoded role and ROI")
                else:
                    self._labelled(f"{base}/{pair}", recipe, *ids, scale)

    def datasets(self) -> None:
        """Collect `rois/<roi>`, `datasets/<roi>` and `datasets/<role>/<roi>`: those that hold `ok` or `ng`."""
        for roi in self._folders("rois"):
            self._labelled(f"rois/{roi}", self._recipe, self._role, roi)
        for first in self._folders("datasets"):
            self._labelled(f"datasets/{first}", self._recipe, self._role, first)
            for roi in self._folders(f"datasets/{first}"):
                folder = f"datasets/{first}/{roi}"
                if split_pair(roi) is None:
                    self._labelled(folder, self._recipe, first, roi)
                else:
                    self._pass_over(folder, "is in this product's own layout already; left alone")

    def nested_banks(self) -> Iterator[BankFile]:
        """Find `<role>/<roi>/{memory.npz,embeddings.npy}`."""
        for role in self._folders(""):
            if role in _RESERVED:
                continue
            for roi in self._folders(f"{role}/"):
                for name in ("memory.npz", "embeddings.npy"):
                    folder = f"{role}/{roi}"
                    if self._store.etag(f"{folder}/{name}") is not None:
                        beside = tuple(
                            f"{folder}/{c}" for c in ("memory_calib.json", "calibration.json", "calib.json")
                        )
                        yield self._bank(f"{folder}/{name}", role, roi, beside)

    def flat_banks(self, roles: set[str]) -> Iterator[BankFile]:
        """Find `<role>_<roi>.npz`."""
        for name in self._names(""):
            if not name.endswith(".npz"):
                continue
            stem = name.removesuffix(".npz")
            role = _role_of(stem, self._role, roles)
            roi = stem[len(role) + 1 :] if role else ""
            if not role or not roi:
                self._pass_over(name, "the name does not say its role and ROI")
                continue
            note = f"read as role '{readable(role)}', ROI '{readable(roi)}' (say --role where that is wrong)"
            yield self._bank(name, role, roi, (f"{stem}_calib.json",), note)

    def _bank(
        self, key: str, role: str, roi: str, beside: tuple[str, ...], note: str | None = None
    ) -> BankFile:
        return BankFile(self._store, key, self._recipe, role, roi, roi, beside, None, note)

    def _encoded_bank(self, recipe: str, folder: str, name: str, scale: float | None) -> None:
        stem = name.removesuffix(".npz")
        key, ids = f"recipes/{recipe}/{folder}/{name}", split_pair(stem)
        if ids is None:
            self._pass_over(key, "the name is no encoded role and ROI")
            return
        calibration = f"recipes/{recipe}/{folder}/{stem}_calib.json"
        model_key = _model_key(folder, ids[1])
        self._found.banks.append(BankFile(self._store, key, recipe, *ids, model_key, (calibration,), scale))

    def _labelled(
        self, folder: str, recipe: str, role: str, roi: str, mm_per_px: float | None = None
    ) -> None:
        for name in self._folders(folder):
            try:
                label = parse_label(name)
            except InvalidInput:
                continue
            names = self._names(f"{folder}/{name}")
            sidecars = tuple(n for n in names if n.lower().endswith(".json"))
            files = tuple(n for n in names if n not in sidecars)
            self._found.samples.append(
                SampleFolder(
                    self._store, f"{folder}/{name}", recipe, role, roi, label, files, sidecars, mm_per_px
                )
            )

    def _scale(self, recipe: str) -> float | None:
        path = str(self._store.path(f"recipes/{recipe}/recipe_meta.json"))
        try:
            scale = RecipeStore(self._store).mm_per_px(recipe)
        except PatchlightError as error:
            self._found.lines.append(ImportLine("scale", "refused", readable(path), readable(error.message)))
            return None
        if scale is not None:
            self._found.scales.append(RecipeScale(path, recipe, scale))
        return scale

    def _folders(self, prefix: str) -> list[str]:
        try:
            return self._store.folders(prefix)
        except StoreUnavailable as error:
            self._pass_over(prefix, error.message)
            return []

    def _names(self, prefix: str) -> list[str]:
        try:
            return self._store.names(prefix)
        except StoreUnavailable as error:
            self._pass_over(prefix, error.message)
            return []

    def _pass_over(self, key: str, why: str) -> None:
        path = readable(str(self._store.path(key)))
        self._found.lines.append(ImportLine("folder", "skipped", path, readable(why)))


def _model_key(folder: str, roi_id: str) -> str:
    # The published server replaced characters of a key, and its client always sent the ROI as the key.
    if folder == _REPLACED.sub("_", roi_id)[:80]:
        return roi_id
    return (read_identifier(folder[1:]) if folder.startswith("~") else None) or folder


def _role_of(stem: str, named: str, known: set[str]) -> str | None:
    # The role that was named, then the longest one that other layouts show, then all before the first `_`.
    for role in (named, *sorted(known, key=len, reverse=True)):
        if role and stem.startswith(f"{role}_"):
            return role
    return stem.partition("_")[0] or None
