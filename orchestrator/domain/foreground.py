"""Which tokens show the part and which its background: one axis of the token space and a cut across it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.arrays import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ForegroundAxis:
    """The first principal component of a fit's tokens, pointing at the part.

    direction: (D,) float32 of length 1. cut: a token whose product with the direction is above it shows the part; the
    tokens' mean is in it already.
    """

    direction: FloatArray
    cut: float
