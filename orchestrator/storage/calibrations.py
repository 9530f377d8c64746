"""Calibrations as `<stem>_calib.json`: replaced whole, bound to a bank generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.domain.calibration import Calibration, Costs, FalseReject, Recall, ThresholdInterval
from orchestrator.domain.identity import Target
from orchestrator.storage import jsonfiles
from orchestrator.storage.files import FileStore


class CalibrationStore:
    """Reads and writes the calibration of a target."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def read(self, target: Target) -> Calibration | None:
        """Read the stored calibration, in force or stale; None where there is none, or only a foreign one.

        Raises StoreCorrupt, StoreUnavailable.
        """
        return decode_calibration(self.raw(target))

    def raw(self, target: Target) -> dict[str, Any] | None:
        """Read whatever is stored, a legacy server's file included."""
        return jsonfiles.read(self._store, _key(target))

    def write(self, target: Target, calibration: Calibration) -> None:
        """Replace the calibration; the caller holds the target's lock."""
        self._store.write(_key(target), jsonfiles.dump(asdict(calibration)))


def decode_calibration(content: Mapping[str, Any] | None) -> Calibration | None:
    """Read a calibration of ours; None where there is none or another server or release wrote it."""
    if content is None:
        return None
    try:
        known = dict(content)
        known["false_reject"] = FalseReject(**known["false_reject"])
        known["ok_scores"] = tuple(known["ok_scores"])
        known["ng_scores"] = tuple(known["ng_scores"])
        # What earlier releases did not know keeps its default.
        known["ok_groups"] = tuple(known.get("ok_groups", ()))
        for name, kind in (("costs", Costs), ("recall", Recall), ("threshold_interval", ThresholdInterval)):
            if known.get(name) is not None:
                known[name] = kind(**known[name])
        return Calibration(**known)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _key(target: Target) -> str:
    return f"{target.stem}_calib.json"
