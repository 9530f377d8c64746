"""The exception tree: what can go wrong, each leaf with a stable code.

Knows no HTTP: `api/errors.py` maps classes to statuses by MRO.
"""

from __future__ import annotations


class PatchlightError(Exception):
    """Base of every error the product raises on purpose."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


# --- the caller's input ---


class InvalidInput(PatchlightError):
    """A value is out of its range; the sentence names the field and the remedy."""

    code = "invalid_input"


class InvalidIdentifier(InvalidInput):
    """A role, ROI or model key breaks the limits of an identifier."""

    code = "invalid_identifier"


class InvalidImage(InvalidInput):
    """The bytes are empty, undecodable or of an unsupported format."""

    code = "invalid_image"


class TooLarge(PatchlightError):
    """A body, a file or a decoded image would exceed its limit."""

    code = "too_large"


class NotEnoughSamples(InvalidInput):
    """Fewer samples than the operation needs."""

    code = "not_enough_samples"


class Unauthorized(PatchlightError):
    """No key, or a wrong one."""

    code = "unauthorized"


class NotFound(PatchlightError):
    """The named thing does not exist."""

    code = "not_found"


class NotBuilt(PatchlightError):
    """A published route whose family is not part of this release."""

    code = "not_implemented"


# --- the state of a target ---


class MemoryNotFitted(PatchlightError):
    """The target has no memory bank yet."""

    code = "memory_not_fitted"


class CalibrationMissing(PatchlightError):
    """A verdict was asked for where the deployment insists on a calibration."""

    code = "calibration_missing"


class Conflict(PatchlightError):
    """The request contradicts what is stored."""

    code = "conflict"


class MmPerPxMismatch(Conflict):
    """The recipe is locked to another scale."""

    code = "mm_per_px_mismatch"


class BackboneMismatch(Conflict):
    """The bank was built by another backbone than the one in force."""

    code = "backbone_mismatch"


class BackboneVersionGone(Conflict):
    """The bank's backbone version is no longer in the repository."""

    code = "backbone_version_gone"


class SampleInBank(PatchlightError):
    """An OK photograph was to be scored by a bank that holds it: its score would say nothing about new parts."""

    code = "sample_in_bank"


# --- capacity and the feature model ---


class Overloaded(PatchlightError):
    """No permit is free; the caller should come back shortly."""

    code = "overloaded"


class FeaturesUnavailable(PatchlightError):
    """The feature model cannot be reached, is stopping or not ready."""

    code = "features_unavailable"


class Stopping(FeaturesUnavailable):
    """The process is ending and abandons long work; nothing of it was kept."""

    code = "stopping"


class DeadlineExceeded(PatchlightError):
    """The feature model did not answer in time."""

    code = "deadline_exceeded"


class FeatureContractBroken(PatchlightError):
    """The feature model answered with another shape, type or fingerprint than its manifest says."""

    code = "feature_contract_broken"


class GpuUnavailable(PatchlightError):
    """The deployment searches on a GPU, and there is none to search on."""

    code = "gpu_unavailable"


class StoreUnavailable(PatchlightError):
    """The artifact store cannot be read or written."""

    code = "store_unavailable"


class DatabaseUnavailable(StoreUnavailable):
    """The database cannot be opened, read or written in time."""

    code = "database_unavailable"


class StreamGone(DatabaseUnavailable):
    """The database has lost what it had begun: it was emptied, or an earlier copy was put in its place."""


class StoreCorrupt(PatchlightError):
    """A stored artifact is not what its format says."""

    code = "store_corrupt"


class BankOptionsUnknown(StoreCorrupt):
    """A bank was made by rules that this release does not know; a refit replaces it."""

    code = "bank_options_unknown"
