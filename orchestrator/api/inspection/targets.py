"""The `targets` field of a batch: a JSON list aligned with its images."""

from __future__ import annotations

import json

from orchestrator.domain.identity import Target
from orchestrator.errors import InvalidIdentifier, InvalidInput
from orchestrator.services.embed import RawShape


def parse_targets(text: str, recipe_id: str, count: int) -> list[tuple[Target, RawShape]]:
    """Read a target and its ROI for each of `count` images.

    Raises InvalidInput, InvalidIdentifier; the sentence names the entry.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("targets: is not JSON; send a list aligned with images.") from error
    if not isinstance(entries, list) or len(entries) != count:
        raise InvalidInput(f"targets: must be a list of {count}, one for each image.")
    return [_entry(entry, recipe_id, index) for index, entry in enumerate(entries)]


def _entry(entry: object, recipe_id: str, index: int) -> tuple[Target, RawShape]:
    if not isinstance(entry, dict):
        raise InvalidInput(f"targets[{index}]: must be an object with role_id and roi_id.")
    texts: dict[str, str | None] = {}
    for field in ("role_id", "roi_id", "model_key"):
        value = entry.get(field)
        if not (value is None or isinstance(value, str)):
            raise InvalidInput(f"targets[{index}].{field}: must be text.")
        texts[field] = value
    shape = entry.get("shape")
    if not (shape is None or isinstance(shape, str | dict)):
        raise InvalidInput(f"targets[{index}].shape: must be JSON text or an object.")
    try:
        role, roi = texts["role_id"] or "", texts["roi_id"] or ""
        return Target.of(recipe_id, role, roi, texts["model_key"]), shape or None
    except InvalidIdentifier as error:
        raise InvalidIdentifier(f"targets[{index}].{error.message}") from error
