"""The scales that an import meets, compared with each recipe's lock and with each other; locks nothing itself."""

from __future__ import annotations

from orchestrator.domain.scale import check_against_lock
from orchestrator.storage.recipes import RecipeStore


class ImportScales:
    """Remembers the first scale of a recipe that has no lock yet, so that a dry run finds the same conflicts."""

    def __init__(self, recipes: RecipeStore) -> None:
        self._recipes = recipes
        self._first: dict[str, float] = {}

    def known(self, recipe_id: str) -> float | None:
        """Give the recipe's scale, stored or met in this import; None where it has none yet.

        Raises StoreCorrupt.
        """
        locked = self._recipes.mm_per_px(recipe_id)
        return self._first.get(recipe_id) if locked is None else locked

    def admit(self, recipe_id: str, mm_per_px: float) -> None:
        """Compare a scale with the recipe's; the first one stands.

        Raises MmPerPxMismatch, StoreCorrupt.
        """
        locked = self.known(recipe_id)
        if locked is None:
            self._first[recipe_id] = mm_per_px
        else:
            check_against_lock(mm_per_px, locked, recipe_id)
