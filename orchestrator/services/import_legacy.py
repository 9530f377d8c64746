"""Bringing another generation's data into this data root; what it reads, it never changes.

One exception: a bank that lies where ours belongs, in this very data root, is replaced in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.identity import DEFAULT_RECIPE, check_identifier, normalise_recipe
from orchestrator.errors import BackboneMismatch, MmPerPxMismatch, PatchlightError
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.services.backbones import Backbones
from orchestrator.services.commit import Committer
from orchestrator.services.import_banks import BankImport
from orchestrator.services.import_report import ImportLine, ImportReport, Outcome, readable
from orchestrator.services.import_samples import SampleImport
from orchestrator.services.import_scales import ImportScales
from orchestrator.services.legacy_layouts import LegacyLayouts, RecipeScale, find_layouts
from orchestrator.storage.banks import BankStore
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.recipes import RecipeStore

Progress = Callable[[int, int], None]


class LegacyImport:
    """Imports samples, scales and memory banks; a second import of the same adds nothing."""

    def __init__(
        self,
        datasets: DatasetStore,
        banks: BankStore,
        recipes: RecipeStore,
        committer: Committer,
        backbones: Backbones,
        choices: ChoiceStore,
        repository: ModelRepository,
        limits: ImageLimits,
    ) -> None:
        self._datasets = datasets
        self._banks = banks
        self._recipes = recipes
        self._committer = committer
        self._backbones = backbones
        self._choices = choices
        self._repository = repository
        self._limits = limits

    def run(
        self,
        source: Path,
        *,
        recipe_id: str = DEFAULT_RECIPE,
        role_id: str = "Inspection",
        backbone: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Import what lies below `source`: a data root, its parent, or its `data` or `models`.

        recipe_id, role_id: for layouts that name none. backbone: what made the banks; without it they stay behind.
        dry_run: only report. progress: called with files done and files in all.

        Raises InvalidInput (source, recipe or role), BackboneMismatch where `backbone` is not in force, NotFound,
        FeaturesUnavailable, StoreUnavailable. What was committed before a failure is whole; import again.
        """
        recipe_id, role_id = normalise_recipe(recipe_id), check_identifier(role_id, "role")
        lines: list[ImportLine] = []
        spec = self._vouched(backbone, lines, dry_run=dry_run) if backbone is not None else None
        found = find_layouts(source, role_id=role_id, recipe_id=recipe_id)
        lines += found.lines
        total, done = sum(len(f.files) for f in found.samples) + len(found.banks), 0
        for line in self._work(found, spec, dry_run=dry_run):
            lines.append(line)
            if line.kind in ("sample", "memory"):
                done += 1
                if progress is not None:
                    progress(done, total)
        return ImportReport(source, dry_run, tuple(lines))

    def _work(
        self, found: LegacyLayouts, spec: BackboneSpec | None, *, dry_run: bool
    ) -> Iterator[ImportLine]:
        scales = ImportScales(self._recipes)
        for scale in found.scales:
            yield self._scale(scale, scales, dry_run=dry_run)
        samples = SampleImport(self._datasets, self._committer, scales, self._limits, dry_run=dry_run)
        for folder in found.samples:
            yield from samples.run(folder)
        banks = BankImport(self._banks, self._committer, scales, spec, samples.ok_digests, dry_run=dry_run)
        for bank in found.banks:
            yield banks.run(bank)

    def _scale(self, found: RecipeScale, scales: ImportScales, *, dry_run: bool) -> ImportLine:
        path, value = readable(found.path), found.mm_per_px
        try:
            recipe_id = normalise_recipe(found.recipe_id)
            outcome: Outcome = "imported" if scales.known(recipe_id) is None else "known"
            scales.admit(recipe_id, value)
            if not dry_run:
                self._committer.scale(recipe_id, value)
        except MmPerPxMismatch as error:
            return ImportLine("scale", "conflict", path, error.message)
        except PatchlightError as error:
            return ImportLine("scale", "refused", path, readable(error.message))
        return ImportLine("scale", outcome, path, f"recipe '{recipe_id}' has {value!r} mm per px")

    def _vouched(self, name: str, lines: list[ImportLine], *, dry_run: bool) -> BackboneSpec:
        if dry_run and self._choices.read() is None:
            # Asking which one is in force would make the choice.
            remedy = (
                f"no backbone is chosen for this data root yet; set BDI_BACKBONE={name} for the import itself"
            )
            lines.append(ImportLine("backbone", "noted", name, remedy))
            return self._repository.spec(name)
        current = self._backbones.current()
        if current.name != name:
            raise BackboneMismatch(
                f"--backbone: '{name}' is not in force here, '{current.name}' is. Banks of '{name}' would give no "
                f"verdict; set BDI_BACKBONE={name} first, or import without --backbone and refit."
            )
        return current
