"""The scale of a recipe, in mm per px: a positive finite number that never changes once seen."""

from __future__ import annotations

import math

from orchestrator.errors import InvalidInput, MmPerPxMismatch

DEFAULT_MM_PER_PX = 0.2
"""What the published client assumes where a recipe has none."""

LEAST_MM_PER_PX, MOST_MM_PER_PX = 1e-12, 1e12
"""Far below an atom and far above the Earth a pixel: what lies outside is a mistake, and breaks areas in mm²."""


def check_mm_per_px(value: float, field: str = "mm_per_px") -> float:
    """Return the value unchanged.

    Raises InvalidInput where it is not a positive finite number, or so small or large that areas in mm² could not be
    told: a recipe would be locked to it for good.
    """
    if not math.isfinite(value) or value <= 0:
        raise InvalidInput(f"{field}: must be > 0 and finite, in millimetres per pixel; got {value!r}.")
    if not LEAST_MM_PER_PX <= value <= MOST_MM_PER_PX:
        raise InvalidInput(
            f"{field}: {value!r} is no scale of a photograph; send {LEAST_MM_PER_PX:g} to {MOST_MM_PER_PX:g} "
            "millimetres per pixel."
        )
    return value


def check_against_lock(value: float, locked: float, recipe_id: str) -> None:
    """Compare a value with the recipe's lock.

    Raises MmPerPxMismatch beyond 1e-6 relative.
    """
    if abs(value - locked) > 1e-6 * max(abs(value), abs(locked)):
        raise MmPerPxMismatch(
            f"mm_per_px mismatch for recipe '{recipe_id}': expected {locked!r}, got {value!r}. "
            "Send the recipe's value, or use another recipe."
        )
