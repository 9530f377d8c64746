"""Which backbone is in force, and which one a bank must be asked with: never a mixed score."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.errors import BackboneMismatch, BackboneVersionGone, FeaturesUnavailable, NotFound
from orchestrator.features.repository import ModelRepository
from orchestrator.storage.choice import BackboneChoice, ChoiceStore

PREFERENCE = ("dinov2_vits14", "scattering")
"""What a new data root takes where nobody says, best first."""

_log = structlog.get_logger()


class Backbones:
    """Joins the data root's choice with the model repository."""

    def __init__(
        self, repository: ModelRepository, choices: ChoiceStore, *, wanted: str | None, legacy: str | None
    ) -> None:
        self._repository = repository
        self._choices = choices
        self._wanted = wanted
        self._legacy = legacy

    @property
    def reason(self) -> str | None:
        """Why this backbone and not the preferred one, where there is something to say."""
        choice = self._choices.read()
        return choice.reason if choice is not None else None

    def settle(self, reason: str | None = None) -> BackboneSpec:
        """Make or confirm the data root's choice, once at start-up.

        A setting that names another backbone than the chosen one, or one whose chosen version is gone, changes it.
        reason: why the choice is not the preferred one; for a first choice the manifest's own by default.

        Raises FeaturesUnavailable where the repository holds no suitable backbone.
        """
        choice = self._choices.read()
        if choice is None:
            spec = self._first_choice()
            self._choices.write(_choice(spec, reason or spec.reason), replace=False)
        elif self._wanted is not None and (self._wanted != choice.name or self._chosen(choice) is None):
            spec = self._newest(self._wanted)
            self._choices.write(_choice(spec, reason), replace=True)
            _log.warning("backbone.changed", previous=choice.name, backbone=spec.name, version=spec.version)
        return self.current()

    def current(self) -> BackboneSpec:
        """Give the backbone that new banks are built with.

        Raises FeaturesUnavailable where none is chosen or its version is not in the repository.
        """
        choice = self._choices.read()
        if choice is None:
            return self.settle()
        spec = self._chosen(choice)
        if spec is None:
            raise FeaturesUnavailable(
                f"backbone {choice.name}/{choice.version}@{choice.fingerprint[:12]} is not in the model repository; "
                f"export it again, or choose another one with BDI_BACKBONE ({self._offer()})."
            )
        return spec

    def for_bank(self, record: BankRecord) -> BackboneSpec:
        """Give the very version that a bank was built with.

        Raises BackboneMismatch, BackboneVersionGone, FeaturesUnavailable.
        """
        metadata, current = record.metadata, self.current()
        if metadata.fingerprint is None:
            return self._for_legacy(record, current)
        if metadata.backbone != current.name:
            raise BackboneMismatch(
                f"this memory was built with backbone '{metadata.backbone}', but '{current.name}' is in force. "
                f"Run /fit_ok again, or set BDI_BACKBONE={metadata.backbone}."
            )
        # By its number first: a search through the repository costs more than a verdict's own search.
        spec = self._version(metadata.backbone, metadata.backbone_version or 0, metadata.fingerprint)
        spec = spec or self._repository.find(metadata.fingerprint)
        if spec is None:
            raise BackboneVersionGone(
                f"this memory was built with {metadata.model_version}, which is no longer in the model "
                "repository. Publish that version again, or run /fit_ok again."
            )
        return spec

    def _chosen(self, choice: BackboneChoice) -> BackboneSpec | None:
        return self._version(choice.name, choice.version, choice.fingerprint)

    def _version(self, name: str, version: int, fingerprint: str) -> BackboneSpec | None:
        try:
            spec = self._repository.spec(name, version)
        except NotFound:
            return None
        return spec if spec.fingerprint == fingerprint else None

    def _for_legacy(self, record: BankRecord, current: BackboneSpec) -> BackboneSpec:
        remedy = "Run /fit_ok again"
        if self._legacy is None:
            raise BackboneMismatch(
                "this memory was written by another server and does not say which backbone made it. "
                f"{remedy}, or name that backbone in BDI_LEGACY_BACKBONE, or run 'patchlight import-legacy'."
            )
        if self._legacy != current.name:
            raise BackboneMismatch(
                f"this legacy memory was made by '{self._legacy}' (BDI_LEGACY_BACKBONE), but '{current.name}' "
                f"is in force. {remedy}, or set BDI_BACKBONE={self._legacy}."
            )
        if record.embeddings.shape[1] != current.dim:
            raise BackboneMismatch(
                f"this legacy memory has {record.embeddings.shape[1]}-dimensional rows, but '{current.name}' gives "
                f"{current.dim}. {remedy}."
            )
        return current

    def _first_choice(self) -> BackboneSpec:
        if self._wanted is not None:
            return self._newest(self._wanted)
        # Random weights are for tests: nobody gets them without asking for that backbone by name.
        names = [
            n for n in self._repository.names() if self._repository.trusted(n).weights_source != "random"
        ]
        ranked = [n for n in PREFERENCE if n in names] or (names if len(names) == 1 else [])
        if not ranked:
            raise FeaturesUnavailable(
                f"no backbone is chosen for this data root; set BDI_BACKBONE ({self._offer()}), or run "
                "'python -m export onnx' first."
            )
        return self._newest(ranked[0])

    def _newest(self, name: str) -> BackboneSpec:
        try:
            return self._repository.trusted(name)
        except NotFound as error:
            raise FeaturesUnavailable(
                f"backbone '{name}' is not in the model repository ({self._offer()}); "
                f"run 'python -m export onnx --backbone {name}' first."
            ) from error

    def _offer(self) -> str:
        names: Sequence[str] = self._repository.names()
        return "it holds " + ", ".join(names) if names else "it is empty"


def _choice(spec: BackboneSpec, reason: str | None) -> BackboneChoice:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return BackboneChoice(spec.name, spec.version, spec.fingerprint, now, reason)
