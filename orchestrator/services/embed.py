"""From posted bytes to patch tokens: decoding, letterbox, ROI mask, feature calls in batches."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.domain.arrays import FloatArray, HalfArray, ImageArray, MaskArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.shapes import parse_shape
from orchestrator.features.base import CallContext, FeatureExtractor
from orchestrator.features.preprocess import ImageLimits, apply_letterbox, decode_image
from orchestrator.patchcore.masks import patch_mask, rasterise
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.pool import NumericsPool

RawShape = str | dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Photograph:
    """Bytes to be embedded. name: what error sentences call it. shape: its ROI, as text, object or None."""

    data: bytes
    name: str
    shape: RawShape = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photograph ready for the graph.

    canvas: (H, W, 3) uint8 at the backbone's input size. mask: (H, W) bool in the crop's frame. patches: (R, C) bool,
    the ones that the mask and the content touch. sha256: of the photograph's bytes.
    """

    canvas: ImageArray
    box: Letterbox
    mask: MaskArray
    patches: MaskArray
    image_format: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A photograph's tokens. tokens: (N, D) float16, row-major over the grid. sha256: of the photograph's bytes."""

    tokens: HalfArray
    box: Letterbox
    mask: MaskArray
    patches: MaskArray
    sha256: str

    @property
    def rows(self) -> HalfArray:
        """The tokens that may enter a bank: (n, D)."""
        kept: HalfArray = self.tokens[self.patches.reshape(-1)]
        return kept

    @property
    def queries(self) -> FloatArray:
        """The same tokens, exactly L2-normalised, for a search: (n, D) float32."""
        return l2_normalise(self.rows)


def prepare(photograph: Photograph, spec: BackboneSpec, limits: ImageLimits) -> Prepared:
    """Decode, mask and letterbox one photograph.

    Raises InvalidImage, TooLarge, InvalidInput (its shape).
    """
    decoded = decode_image(photograph.data, limits, photograph.name)
    size = decoded.pixels.shape[0], decoded.pixels.shape[1]
    box = Letterbox.fit(size, spec.input_size)
    mask = rasterise(parse_shape(photograph.shape, size), size)
    canvas = apply_letterbox(decoded.pixels, box, spec.padding)
    patches = patch_mask(mask, box, spec.grid)
    digest = hashlib.sha256(photograph.data).hexdigest()
    return Prepared(canvas, box, mask, patches, decoded.image_format, digest)


class Embedder:
    """Turns photographs into tokens of one backbone version."""

    def __init__(
        self, extractor: FeatureExtractor, pool: NumericsPool, limits: ImageLimits, batch_size: int
    ) -> None:
        self.extractor = extractor
        self.pool = pool
        self.limits = limits
        self.batch_size = batch_size

    async def prepare(self, photograph: Photograph, spec: BackboneSpec) -> Prepared:
        """Prepare one photograph off the event loop. Raises as `prepare`."""
        return await self.pool.run(self.prepare_now, photograph, spec)

    def prepare_now(self, photograph: Photograph, spec: BackboneSpec) -> Prepared:
        """Prepare one photograph in the calling thread. Raises as `prepare`."""
        return prepare(photograph, spec, self.limits)

    async def extract(
        self, prepared: Sequence[Prepared], spec: BackboneSpec, context: CallContext
    ) -> list[Embedded]:
        """Compute the tokens of prepared photographs, in order, in one call."""
        tokens = await self.extractor.extract(np.stack([p.canvas for p in prepared]), spec, context)
        return [
            Embedded(t, p.box, p.mask, p.patches, p.sha256) for t, p in zip(tokens, prepared, strict=True)
        ]

    async def embed(
        self,
        photographs: Sequence[Photograph],
        spec: BackboneSpec,
        context: CallContext,
        progress: Callable[[float], None] | None = None,
    ) -> list[Embedded]:
        """Embed photographs, in order, two batches at a time: no more pixels are held.

        progress: called with the share done. Raises as `prepare` and the extractor.
        """
        embedded: list[Embedded] = []
        step = 2 * self.batch_size
        for start in range(0, len(photographs), step):
            prepared = await asyncio.gather(
                *(self.prepare(p, spec) for p in photographs[start : start + step])
            )
            # Two equal calls side by side: no instance of the model waits while another works.
            half = (len(prepared) + 1) // 2
            halves = [h for h in (prepared[:half], prepared[half:]) if h]
            for tokens in await asyncio.gather(*(self.extract(h, spec, context) for h in halves)):
                embedded += tokens
            if progress is not None:
                progress(len(embedded) / len(photographs))
        return embedded
