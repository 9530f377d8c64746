"""What an accumulation or a removal continues: the current bank, where it is one that can be continued."""

from __future__ import annotations

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankMetadata
from orchestrator.domain.identity import Target
from orchestrator.errors import BackboneMismatch, BackboneVersionGone, Conflict, StoreCorrupt
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, LoadedBank, check_grid
from orchestrator.services.commit import REFITTED_MEANWHILE, Committer
from orchestrator.services.embed import RawShape


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
