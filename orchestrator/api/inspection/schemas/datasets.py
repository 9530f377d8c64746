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
    """Whether there was something to delete, and what became of the bank that held it.

    The bank's fields are null where it was not refitted.
    """

    role_id: str
    roi_id: str
    label: Decision
    deleted: bool
    filename: str
    refitted: Annotated[bool, Field(description="Whether its patches were taken out of the bank.")]
    model_key: str | None
    bank_generation: int | None
    n_embeddings: int | None
    coreset_size: int | None
    samples_without_tokens: Annotated[
        int | None,
        Field(
            description="Photographs of the bank that are stored no more: their rows were kept as they were."
        ),
    ]
    recalibrated: bool
    threshold: float | None


class ClearResponse(Identified):
    """How many files were removed, sidecars included."""

    role_id: str
    roi_id: str
    label: Decision
    cleared: int
