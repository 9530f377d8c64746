"""The extractor protocol and what travels through it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec


class Priority(IntEnum):
    """Triton's priority levels: an inspection goes before a fit."""

    INSPECT = 1
    FIT = 2


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a feature call carries besides pixels.

    timeout_s: budget left for this call, retries included. traceparent: W3C trace context, passed on verbatim.
    """

    request_id: str
    timeout_s: float
    priority: Priority = Priority.INSPECT
    traceparent: str | None = None


class FeatureExtractor(Protocol):
    """Turns prepared images into patch tokens of one pinned backbone version."""

    @property
    def backend(self) -> Literal["triton", "onnxruntime"]:
        """The wire's `feature_backend`."""

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Compute tokens.

        images: (B, H, W, 3) uint8 RGB at spec.input_size. Returns (B, N, D) float16, L2-normalised, N = R·C.
        A B above what one call may carry is split.

        Raises FeaturesUnavailable, Overloaded, DeadlineExceeded, FeatureContractBroken.
        """

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Say within a second whether this very version answers now."""

    async def close(self) -> None:
        """Release channels, sessions and threads."""
