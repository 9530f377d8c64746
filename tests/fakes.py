"""Fakes at the extractor's seam: a real extractor that can be held back, and one that always fails."""

from __future__ import annotations

import asyncio
import threading
from typing import Literal

import numpy as np

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import DeadlineExceeded
from orchestrator.features.base import CallContext, FeatureExtractor


class HeldExtractor:
    """Answers as the extractor behind it does, but not before `release` is set.

    waiting: how many calls wait. images: how many photographs were asked for.
    """

    def __init__(self, inner: FeatureExtractor, *, held: bool = True) -> None:
        self._inner = inner
        self.release = threading.Event()
        self.waiting = 0
        self.images = 0
        if not held:
            self.release.set()

    @property
    def backend(self) -> Literal["triton", "onnxruntime"]:
        """The wire's `feature_backend`."""
        return self._inner.backend

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Wait for the release, then compute."""
        self.waiting += 1
        self.images += len(images)
        try:
            async with asyncio.timeout(context.timeout_s):
                # Released from another thread than the loop's, so no asyncio.Event.
                while not self.release.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            raise DeadlineExceeded("was held too long") from error
        finally:
            self.waiting -= 1
        return await self._inner.extract(images, spec, context)

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Ask the extractor behind."""
        return await self._inner.is_ready(spec)

    async def close(self) -> None:
        """Close the extractor behind."""
        await self._inner.close()


class BrokenExtractor:
    """Raises the same error at every call."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def backend(self) -> Literal["onnxruntime"]:
        """The wire's `feature_backend`."""
        return "onnxruntime"

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Fail."""
        raise self._error

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Never."""
        return False

    async def close(self) -> None:
        """Do nothing."""


class PatchMeanExtractor:
    """Gives every patch its own mean colour as a token: exact, and the same however the image is turned.

    calls: the number of images of each call.
    """

    def __init__(self) -> None:
        self.calls: list[int] = []

    @property
    def backend(self) -> Literal["onnxruntime"]:
        """The wire's `feature_backend`."""
        return "onnxruntime"

    async def extract(self, images: ImageArray, spec: BackboneSpec, context: CallContext) -> HalfArray:
        """Average."""
        self.calls.append(len(images))
        rows, columns = spec.grid
        side = spec.input_size[0] // rows, spec.input_size[1] // columns
        patches = images.reshape(len(images), rows, side[0], columns, side[1], 3).mean(axis=(2, 4))
        colours = np.concatenate([patches, np.full((*patches.shape[:3], 1), 64.0)], axis=-1)
        tokens = np.zeros((len(images), rows * columns, spec.dim), np.float16)
        unit = colours / np.linalg.norm(colours, axis=-1, keepdims=True)
        tokens[..., :4] = unit.reshape(len(images), rows * columns, 4)
        return tokens

    async def is_ready(self, spec: BackboneSpec) -> bool:
        """Always."""
        return True

    async def close(self) -> None:
        """Do nothing."""


PATCH_MEANS = BackboneSpec(
    name="patch_means",
    version=1,
    fingerprint="0" * 64,
    input_size=(112, 112),
    grid=(8, 8),
    dim=4,
    padding="black",
    weights_source="none",
    reason=None,
    input_name="image",
    output_name="tokens",
    onnx_sha256="0" * 64,
)
"""What a `PatchMeanExtractor` answers by."""
