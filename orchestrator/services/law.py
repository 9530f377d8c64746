"""What a score depends on besides the photograph and the bank's fit: scores of two laws never belong in one stream."""

from __future__ import annotations

import hashlib
import json

from orchestrator.services.banks import LoadedBank
from orchestrator.services.score import Scoring


def score_law(bank: LoadedBank, scoring: Scoring, percentile: float, model: str) -> str:
    """Name how scores are made, in 16 hexadecimal digits; equal names, equal scores for equal photographs.

    percentile: in force, 0 to 100. model: label of the backbone's version that embeds the photographs.
    """
    rule = bank.record.metadata.options.score_rule
    facts: dict[str, object] = {
        "rule": rule,
        "distance": scoring.distance,
        "index": bank.search.index_sha256,
        "model": model,
        "rows": bank.rows_sha256,
    }
    if rule == "percentile":
        # The other rules look at the patches, before they are blurred.
        facts |= {"percentile": float(percentile), "blur_sigma": float(scoring.blur_sigma)}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
