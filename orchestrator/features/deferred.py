"""An extractor whose adapter, and the library behind it, is imported at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.features.base import CallContext, FeatureExtractor


class DeferredExtractor:
    """Stands in for an extractor until somebody asks for features.

    make: imports the adapter and makes the extractor.
    """

    def __init__(
        self, backend: Literal["triton", "onnxruntime"], make: Callable[[], FeatureExtractor]
    ) -> None:
        self._backend = backend
        self._make = make
        self._extractor: FeatureExtractor | None = None

    @property
    def backend(self) -> Literal["triton", "onnxruntime"]:
        """The wire's `feature_backend`."""
        return self._backend

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Compute tokens; see FeatureExtractor."""
        return await self._made().extract(images, spec, context)

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Say whether this very version answers now."""
        return await self._made().is_ready(spec)

    async def close(self) -> None:
        """Close the extractor, if it was ever made."""
        if self._extractor is not None:
            await self._extractor.close()

    def _made(self) -> FeatureExtractor:
        if self._extractor is None:
            self._extractor = self._make()
        return self._extractor
