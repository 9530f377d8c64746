"""What the bodies share: ids, JSON's own types, a target's identity. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.wire import Closed

Decision = Literal["ok", "ng"]


Number = Annotated[float, Field(strict=True)]
"""A JSON number; not a text, and true is not 1."""


Flag = Annotated[bool, Field(strict=True)]


TokenShape = Annotated[list[int], Field(min_length=2, max_length=2)]


class Identified(Closed):
    """Every body names its request and its recipe."""

    request_id: str
    recipe_id: str


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
