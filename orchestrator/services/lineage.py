"""What an accumulation or a removal continues: the current bank, where it is one that can be continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankMetadata
from orchestrator.domain.identity import Target
from orchestrator.errors import BackboneMismatch, BackboneVersionGone, Conflict, StoreCorrupt
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, LoadedBank, check_grid
from orchestrator.services.commit import REFITTED_MEANWHILE, Committer
from orchestrator.services.embed import RawShape

OWN_SHAPES = "own_shapes"
"""Of a bank's metadata: the ROIs of those photographs that had one of their own, by digest."""


class Lineage:
    """Finds the bank to continue."""

    def __init__(self, banks: Banks, backbones: Backbones, committer: Committer) -> None:
        self._banks = banks
        self._backbones = backbones
        self._committer = committer

    def current(self, target: Target, field: str) -> tuple[int, LoadedBank | None]:
        """Give the generation that a commit must follow, and its bank, if there is one. field: who asks.

        Raises Conflict where the bank is damaged, or another one was committed between two looks.
        """
        generation = self._committer.generation(target)
        try:
            bank = self._banks.find(target)
        except StoreCorrupt as error:
            raise Conflict(
                f"{field}: the stored memory is damaged; replace it by a fit without {field}.",
                code="memory_damaged",
            ) from error
        if bank is not None and bank.record.metadata.source != "legacy" and bank.generation != generation:
            raise Conflict(f"{field}: the memory was refitted meanwhile; try again.", code=REFITTED_MEANWHILE)
        return generation, bank

    def spec(self, bank: LoadedBank, field: str) -> BackboneSpec:
        """Give the backbone version that a bank is continued with: its own. field: who asks.

        Raises BackboneMismatch, BackboneVersionGone, Conflict, FeaturesUnavailable.
        """
        metadata = bank.record.metadata
        remedy = f"A fit without {field} replaces the memory."
        if metadata.source == "legacy":
            raise BackboneMismatch(
                f"{field}: this memory was written by another server and does not say which photograph each of its "
                f"rows is of. {remedy}"
            )
        if metadata.options.augmentation != "none" or metadata.options.foreground:
            # A patch of a view, or of a foreground found in other photographs, has no place among the others' patches.
            raise Conflict(
                f"{field}: a memory fitted with augmentation or foreground cannot be continued. {remedy}"
            )
        try:
            spec = self._backbones.for_bank(bank.record)
            check_grid(bank, spec.grid)
        except (BackboneMismatch, BackboneVersionGone) as error:
            raise type(error)(f"{field}: {error.message} {remedy}") from error
        return spec


def fitted_shape(metadata: BankMetadata) -> RawShape:
    """Give the ROI that a bank's fit asked for, above the samples' own; None where it asked for none."""
    shape = metadata.extra.get("shape_json")
    return shape if isinstance(shape, str | dict) else None


def recallable(metadata: BankMetadata) -> dict[str, RawShape]:
    """Give, by digest, the ROI that each of a bank's photographs was embedded by; without those nobody knows it of.

    Whoever recalls another view of a photograph brings patches into the bank that lie outside its ROI.
    """
    fitted, own = fitted_shape(metadata), metadata.extra.get(OWN_SHAPES)
    if fitted is not None:
        return dict.fromkeys(metadata.sample_sha256, fitted)
    # A bank from before it was written down may hold photographs that had an ROI.
    return {d: own.get(d) for d in metadata.sample_sha256} if isinstance(own, dict) else {}


def with_own_shapes(metadata: BankMetadata, shapes: Mapping[str, RawShape]) -> BankMetadata:
    """Write down by which ROI photographs were embedded, by digest, beside what is known of the bank's others.

    Where the fit asked for an ROI above theirs, that one says it of all.
    """
    own = metadata.extra.get(OWN_SHAPES)
    if fitted_shape(metadata) is not None or not isinstance(own, dict):
        return metadata
    told = {d: shape for d, shape in {**own, **shapes}.items() if shape and d in metadata.sample_sha256}
    return replace(metadata, extra={**metadata.extra, OWN_SHAPES: told})
