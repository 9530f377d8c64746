"""The bodies of `/fit_ok` and `/send_ng`. Names are the published ones."""

from __future__ import annotations

from orchestrator.api.inspection.schemas.shared import Identified, MemoryOptionsBody, SampleRef, TokenShape


class FitResponse(Identified):
    """A new generation of a memory bank."""

    role_id: str
    roi_id: str
    model_key: str
    n_embeddings: int
    coreset_size: int
    token_shape: TokenShape
    coreset_rate_requested: float
    coreset_rate_applied: float
    options: MemoryOptionsBody
    ok_added: int
    target_dir: str
    samples: list[SampleRef]
    fit_started_at: str
    fit_duration_s: float
    model_version: str
    bank_generation: int
    recalibrated: bool
    threshold: float | None


class SendNgResponse(Identified):
    """Stored NG samples."""

    ng_added: int
    target_dir: str
    samples: list[SampleRef]
