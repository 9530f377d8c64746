"""The bodies of `/datasets/*`. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.inspection.schemas.shared import Decision, Identified
from orchestrator.api.wire import Closed


class UploadResponse(Identified):
    """Stored names, one for each image posted, in order."""

    status: Literal["ok"]
    saved: list[str]


class DatasetClass(Closed):
    """The photographs of one label, and whether each has a sidecar."""

    count: int
    files: list[str]
    meta: dict[str, bool]


class DatasetListResponse(Identified):
    """What is stored for a part."""

    role_id: str
    roi_id: str
    classes: Annotated[
        dict[Decision, DatasetClass], Field(description="A label without photographs is absent.")
    ]


class SampleMetaResponse(BaseModel):
    """A sidecar as the client sent it, completed; open on purpose, as its keys are the client's."""

    model_config = ConfigDict(extra="allow")

    role_id: str
    roi_id: str
    recipe_id: str
    label: Decision
    filename: str
    timestamp_utc: str
    created_at_utc: str
    source: str
    sha256: str
    request_id: str


class DeleteResponse(Identified):
    """Whether there was something to delete."""

    role_id: str
    roi_id: str
    label: Decision
    deleted: bool
    filename: str


class ClearResponse(Identified):
    """How many files were removed, sidecars included."""

    role_id: str
    roi_id: str
    label: Decision
    cleared: int
