"""What the bodies share: ids, JSON's own types, a target's identity. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.wire import Closed
from orchestrator.domain.memory_options import Augmentation, ScoreRule

Decision = Literal["ok", "ng"]


Number = Annotated[float, Field(strict=True)]
"""A JSON number; not a text, and true is not 1."""


Flag = Annotated[bool, Field(strict=True)]


TokenShape = Annotated[list[int], Field(min_length=2, max_length=2)]


class Identified(Closed):
    """Every body names its request and its recipe."""

    request_id: str
    recipe_id: str


class MemoryOptionsBody(Closed):
    """How a bank's features and scores are made, from its fit on.

    foreground_share: of the fit's patches that were found to show the part, null without the option.
    """

    augmentation: Augmentation
    foreground: bool
    foreground_share: float | None
    tile_px: int | None
    tile_overlap_px: int | None
    score_rule: ScoreRule
    version: int


class SampleRef(Closed):
    """Where a stored photograph and its sidecar are."""

    file: str
    meta: str


class Evaluated(BaseModel):
    """What both calibration requests share."""

    model_config = ConfigDict(extra="ignore")

    role_id: Annotated[str, Field(min_length=1, max_length=64)]
    roi_id: Annotated[str, Field(min_length=1, max_length=64)]
    model_key: Annotated[str | None, Field(max_length=64)] = None
    recipe_id: str | None = None
