"""Importing memory banks: rows whose backbone somebody vouches for become a first generation of ours.

Thresholds stay behind: the published server scored padding patches and stretched its maps (contract B3.2), so they
mean nothing for our scores.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.identity import DEFAULT_RECIPE, Part, Target, normalise_recipe
from orchestrator.errors import (
    BackboneMismatch,
    Conflict,
    MmPerPxMismatch,
    PatchlightError,
    StoreCorrupt,
)
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.services.commit import Committer
from orchestrator.services.import_report import ImportLine, Outcome, readable
from orchestrator.services.import_scales import ImportScales
from orchestrator.services.legacy_layouts import BankFile
from orchestrator.storage import jsonfiles
from orchestrator.storage.banks import BankStore, decode_bank
from orchestrator.storage.legacy import LegacyBanks

_UNKNOWN_GRID = (1, 1)
_RATES = ("coreset_rate_applied", "applied_rate", "coreset_rate")


class BankImport:
    """Writes found banks as ours. spec: the backbone that made them; None where nobody says."""

    def __init__(
        self,
        banks: BankStore,
        committer: Committer,
        scales: ImportScales,
        spec: BackboneSpec | None,
        ok_digests: Mapping[Part, Sequence[str]],
        *,
        dry_run: bool,
    ) -> None:
        self._banks = banks
        self._committer = committer
        self._scales = scales
        self._spec = spec
        self._ok_digests = ok_digests
        self._dry_run = dry_run
        self._taken: dict[Target, str] = {}

    def run(self, found: BankFile) -> ImportLine:
        """Import one bank.

        Raises nothing: what stands against it is the line's sentence.
        """
        path = readable(str(found.store.path(found.key)))
        try:
            outcome, sentence = self._import(found, path)
        except MmPerPxMismatch as error:
            outcome, sentence = "conflict", error.message
        except PatchlightError as error:
            outcome, sentence = "refused", error.message
        return ImportLine("memory", outcome, path, readable("; ".join(filter(None, (sentence, found.note)))))

    def _import(self, found: BankFile, path: str) -> tuple[Outcome, str]:
        target = Target.of(normalise_recipe(found.recipe_id), found.role_id, found.roi_id, found.model_key)
        if target in self._taken:
            return (
                "skipped",
                f"{target.part.label} has its memory from {self._taken[target]}, which comes first",
            )
        data = found.store.read(found.key)
        digest, record = hashlib.sha256(data).hexdigest(), _read(found, data)
        if record.metadata.fingerprint is not None:
            return "skipped", "is a memory of this product already; left alone"
        standing = self._standing(target, found, digest)
        if standing is not None:
            return standing
        rows, dim = record.embeddings.shape
        if self._spec is None:
            return "skipped", (
                f"{rows} rows of {dim} dimensions do not say which backbone made them: name it with --backbone, "
                "or refit from the samples"
            )
        committed = self._ours(found, record, target, self._spec, {"from": path, "sha256": digest})
        if found.mm_per_px is not None:
            self._scales.admit(target.part.recipe_id, found.mm_per_px)
        if not self._dry_run:
            self._committer.fit(target, committed, [], _only_the_first)
        self._taken[target] = path
        return "imported", f"generation 1 of {target.part.label}, {rows} rows of {dim}; {_calibration(found)}"

    def _standing(self, target: Target, found: BankFile, digest: str) -> tuple[Outcome, str] | None:
        etag = self._banks.etag(target)
        if etag is None:
            return None
        metadata = self._banks.read(target).metadata
        if metadata.extra.get("imported_sha256") == digest:
            return "known", f"{target.part.label} has been imported from it already"
        if metadata.fingerprint is not None:
            return "skipped", f"{target.part.label} has a memory of its own already; it is not overwritten"
        if etag != found.store.etag(found.key):
            raise Conflict(
                f"{target.part.label} has another legacy memory in its place; import or remove that."
            )
        return None

    def _ours(
        self, found: BankFile, record: BankRecord, target: Target, spec: BackboneSpec, origin: dict[str, str]
    ) -> BankRecord:
        rows, dim = record.embeddings.shape
        if dim != spec.dim:
            raise BackboneMismatch(
                f"its rows have {dim} dimensions, but '{spec.name}' gives {spec.dim}: another backbone made it. "
                "Name that one, or refit from the samples."
            )
        if record.grid not in (_UNKNOWN_GRID, spec.grid):
            raise BackboneMismatch(
                f"its token grid is {record.grid}, but '{spec.name}' gives {spec.grid}: another backbone or input "
                "size made it. Name that one, or refit from the samples."
            )
        memory = MemoryBank(l2_normalise(record.embeddings), spec.grid)
        # Those samples are taken for its own, so that a calibration never scores one against a bank that holds it.
        digests = tuple(dict.fromkeys(self._ok_digests.get(target.part, ())))
        rate = _rate(record, rows, len(digests) * spec.grid[0] * spec.grid[1])
        extra: dict[str, Any] = {f"imported_{key}": value for key, value in origin.items()}
        if _is_storable(record.metadata.extra):
            extra["legacy"] = dict(record.metadata.extra)
        metadata = replace(
            record.metadata,
            backbone=spec.name,
            backbone_version=spec.version,
            fingerprint=spec.fingerprint,
            coreset_rate_requested=rate,
            coreset_rate_applied=rate,
            mm_per_px=found.mm_per_px,
            sample_sha256=digests,
            from_dataset=bool(digests),
            source="patchlight",
            extra=extra,
        )
        return BankRecord(
            memory.embeddings.astype(np.float16), spec.grid, metadata, record.row_sample, record.row_patch
        )


def _only_the_first(generation: int) -> None:
    # Called under the commit's lock: a fit that came in meanwhile stands.
    if generation != 1:
        raise Conflict("the target was fitted meanwhile; it is not overwritten.")


def _read(found: BankFile, data: bytes) -> BankRecord:
    if found.key.endswith(".npz"):
        return decode_bank(data, found.key)
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise StoreCorrupt(f"{found.key}: cannot be read as an array")
    return LegacyBanks((found.store,)).read(Target.of(DEFAULT_RECIPE, found.role_id, found.roi_id))


def _rate(record: BankRecord, rows: int, patches: int) -> float:
    for name in _RATES:
        value = record.metadata.extra.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
    return min(1.0, rows / patches) if patches else 1.0


def _is_storable(content: Mapping[str, Any]) -> bool:
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _calibration(found: BankFile) -> str:
    remedy = "calibrate it here (/calibrate_dataset) before trusting verdicts"
    for key in found.calibrations:
        try:
            content = jsonfiles.read(found.store, key)
        except PatchlightError:
            return f"its calibration cannot be read; {remedy}"
        if content is not None:
            threshold = content.get("threshold")
            known = isinstance(threshold, int | float) and math.isfinite(threshold)
            value = f" {threshold:g}" if known else ""
            return f"its threshold{value} belongs to scores that were computed otherwise and stays behind; {remedy}"
    return f"it has no calibration; {remedy}"
