"""The bodies that tell of drift."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.api.inspection.schemas.shared import Evaluated, Identified
from orchestrator.api.wire import Closed

_SENT_AGAIN = "The counted score; the first answer's, where the request id was sent again."
_EPOCH = (
    "Which count of this bank's parts: a reset begins another, and so does every new way of making scores, such as "
    "a calibration with another score_percentile."
)
_CATCHING_UP = "Null within the reference of 60 parts, and while a restarted process replays a long log."


class CountedPart(Closed):
    """This part's place in its target's stream, and the drift right after it; null where it was not counted."""

    bank_generation: int
    epoch: Annotated[int, Field(description=_EPOCH)]
    sequence: Annotated[int, Field(description="1, 2, ... within the epoch, without holes.")]
    score: Annotated[float, Field(description=_SENT_AGAIN)]
    p_value: Annotated[float | None, Field(description=_CATCHING_UP)]
    log10_martingale: float | None
    alarm: bool | None


class DriftSummary(Closed):
    """The drift of a target's scores since its fit or its last reset."""

    phase: Literal["reference", "watching", "alarm"]
    bank_generation: int
    epoch: int
    parts: int
    reference: Annotated[
        int, Field(description="The parts that are only ranked; bets begin with the next one.")
    ]
    alpha: Annotated[float, Field(description="Bound on the probability of ever raising a false alarm.")]
    seed: int
    log10_martingale: float
    log10_max: float
    alarm: bool
    alarm_at: Annotated[int | None, Field(description="The part at which the martingale reached 1/alpha.")]
    direction: Annotated[
        Literal["rising", "falling"] | None, Field(description="Where the scores have gone, as of the alarm.")
    ]


class DriftPoint(Closed):
    """One part of the curve."""

    sequence: int
    score: float
    p_value: float | None
    log10_martingale: float


class DriftResponse(Identified, DriftSummary):
    """The drift of a target, and its last points, oldest first."""

    role_id: str
    roi_id: str
    model_key: str
    points: list[DriftPoint]


class DriftResetRequest(Evaluated):
    """Count from one again, with a new reference."""
