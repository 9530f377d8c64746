"""What an inspection asks, what it takes along, and what it answers: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.regions import Region
from orchestrator.services.banks import LoadedBank
from orchestrator.services.embed import Photograph, Prepared
from orchestrator.services.explain import Explanation


@dataclass(frozen=True, slots=True)
class Inspection:
    """One photograph to be judged.

    lock_scale: whether its mm_per_px is held against the recipe's lock. keep_map: whether the verdict carries the map.
    explain: whether it carries an explanation.
    """

    target: Target
    photograph: Photograph
    mm_per_px: float
    include_heatmap: bool = True
    lock_scale: bool = True
    keep_map: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. threshold, decision: None without a calibration in force. heatmap_png: None unless asked for.

    anomaly: (H, W) float32 distances in the crop's frame, if kept. explanation: if asked for. timings_ms: by stage.
    fitted_at: of the bank. p_value: the chance that a good part scores this high, None without the OK scores of a
    calibration. has_foreground: whether the part's foreground alone was judged, false where none was found;
    None where the bank does not ask for it. score_law: names how the score was made.
    """

    score: float
    threshold: float | None
    decision: Literal["ok", "ng"] | None
    token_shape: tuple[int, int]
    heatmap_png: bytes | None
    regions: list[Region]
    mm_per_px: float
    blur_sigma: float
    score_percentile: float
    score_rule: ScoreRule
    has_foreground: bool | None
    area_mm2_thr: float
    elapsed_ms: float
    timings_ms: dict[str, float]
    model_version: str
    bank_generation: int
    input_size: tuple[int, int]
    anomaly: FloatArray | None
    explanation: Explanation | None = None
    fitted_at: str | None = None
    p_value: float | None = None
    score_law: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where no calibration is in force."""

    score_percentile: float
    area_mm2_thr: float
    require_calibration: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A photograph on its way: decoded, with the bank and the calibration that it meets. decode_ms: what that took."""

    bank: LoadedBank
    calibration: Calibration | None
    spec: BackboneSpec
    prepared: Prepared
    decode_ms: float
