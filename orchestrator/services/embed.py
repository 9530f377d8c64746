"""From posted bytes to patch tokens: decoding, letterbox or windows, ROI mask, feature calls in batches."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.domain.arrays import FloatArray, HalfArray, ImageArray, IndexArray, MaskArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.frame import Frame
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import MemoryOptions, Tiling
from orchestrator.domain.shapes import parse_shape
from orchestrator.domain.tiles import TiledFrame, frame_of
from orchestrator.errors import InvalidInput
from orchestrator.features.base import CallContext, FeatureExtractor
from orchestrator.features.preprocess import ImageLimits, apply_letterbox, decode_image
from orchestrator.features.tiling import draw_windows, merge_tokens
from orchestrator.features.views import VIEWS, View
from orchestrator.patchcore.masks import patch_mask, rasterise
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.pool import NumericsPool

RawShape = str | dict[str, Any] | None

# Canvases in one feature call: a batch of photographs, or the windows of one.
_CALL_CANVASES = 64


@dataclass(frozen=True, slots=True)
class Photograph:
    """Bytes to be embedded. name: what error sentences call it. shape: its ROI, as text, object or None."""

    data: bytes
    name: str
    shape: RawShape = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photograph ready for the graph.

    canvases: (B, H, W, 3) uint8 at the backbone's input size; one, or one a window. mask: (H, W) bool in the crop's
    frame. patches: (R, C) bool, the ones that the mask and the content touch. sha256: of the photograph's bytes.
    """

    canvases: ImageArray
    box: Frame
    mask: MaskArray
    patches: MaskArray
    image_format: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """A photograph's tokens.

    tokens: (N, D) float16, row-major over the grid of `patches`. sha256: of the photograph's bytes. views: (V, N, D)
    float16, tokens of its mirror images and quarter turns, each where the original has its own. has_foreground:
    whether `patches` and `mask` are down to the part's foreground; None where nobody asked.
    """

    tokens: HalfArray
    box: Frame
    mask: MaskArray
    patches: MaskArray
    sha256: str
    views: HalfArray | None = None
    has_foreground: bool | None = None

    @property
    def rows(self) -> HalfArray:
        """The tokens that are compared: (n, D)."""
        kept: HalfArray = self.tokens[self.patches.reshape(-1)]
        return kept

    @property
    def bank_rows(self) -> HalfArray:
        """The tokens that may enter a bank, those of the views after the original's: ((1 + V)·n, D)."""
        if self.views is None:
            return self.rows
        seen = self.views[:, self.patches.reshape(-1)]
        return np.concatenate([self.rows, seen.reshape(-1, self.tokens.shape[1])])

    @property
    def bank_patches(self) -> IndexArray:
        """Which patch of the original each of `bank_rows` shows: ((1 + V)·n,)."""
        counted = np.flatnonzero(self.patches)
        return np.tile(counted, 1 if self.views is None else 1 + len(self.views))

    @property
    def queries(self) -> FloatArray:
        """The compared tokens, exactly L2-normalised, for a search: (n, D) float32."""
        return l2_normalise(self.rows)


def prepare(
    photograph: Photograph, spec: BackboneSpec, limits: ImageLimits, tiling: Tiling | None = None
) -> Prepared:
    """Decode, mask and letterbox one photograph, or its windows.

    Raises InvalidImage, TooLarge, InvalidInput (its shape, too many windows).
    """
    decoded = decode_image(photograph.data, limits, photograph.name)
    size = decoded.pixels.shape[0], decoded.pixels.shape[1]
    frame, grid = frame_of(size, spec.input_size, spec.grid, tiling)
    mask = rasterise(parse_shape(photograph.shape, size), size)
    canvases = _draw(decoded.pixels, frame, spec)
    patches = patch_mask(mask, frame, grid)
    digest = hashlib.sha256(photograph.data).hexdigest()
    return Prepared(canvases, frame, mask, patches, decoded.image_format, digest)


def _draw(pixels: ImageArray, frame: Frame, spec: BackboneSpec) -> ImageArray:
    if isinstance(frame, TiledFrame):
        return draw_windows(pixels, frame, spec.padding)
    assert isinstance(frame, Letterbox)
    return apply_letterbox(pixels, frame, spec.padding)[None]


def check_one_grid(photographs: Sequence[Photograph], embedded: Sequence[Embedded]) -> None:
    """Refuse a bank of crops of several sizes where one comes in windows: a row's patch would then say no place.

    Raises InvalidInput.
    """
    if not any(isinstance(one.box, TiledFrame) for one in embedded):
        return
    wanted = embedded[0].box.crop
    for photograph, one in zip(photographs, embedded, strict=True):
        if one.box.crop != wanted:
            raise InvalidInput(
                f"{photograph.name}: is {one.box.crop[1]} x {one.box.crop[0]} px, but {photographs[0].name} is "
                f"{wanted[1]} x {wanted[0]}; crops larger than tile_px must all have one size in a fit. Leave it out, "
                "or send tile_px=0."
            )


class Embedder:
    """Turns photographs into tokens of one backbone version."""

    def __init__(
        self, extractor: FeatureExtractor, pool: NumericsPool, limits: ImageLimits, batch_size: int
    ) -> None:
        self.extractor = extractor
        self.pool = pool
        self.limits = limits
        self.batch_size = batch_size

    async def prepare(
        self, photograph: Photograph, spec: BackboneSpec, tiling: Tiling | None = None
    ) -> Prepared:
        """Prepare one photograph off the event loop. Raises as `prepare`."""
        return await self.pool.run(self.prepare_now, photograph, spec, tiling)

    def prepare_now(
        self, photograph: Photograph, spec: BackboneSpec, tiling: Tiling | None = None
    ) -> Prepared:
        """Prepare one photograph in the calling thread. Raises as `prepare`."""
        return prepare(photograph, spec, self.limits, tiling)

    async def extract(
        self,
        prepared: Sequence[Prepared],
        spec: BackboneSpec,
        context: CallContext,
        views: Sequence[View] = (),
    ) -> list[Embedded]:
        """Compute the tokens of prepared photographs, in order.

        One call for a batch, or for the windows of one large photograph; and one more a view.
        """
        embedded: list[Embedded] = []
        for group in _calls(prepared):
            canvases = group[0].canvases if len(group) == 1 else np.concatenate([p.canvases for p in group])
            tokens = await self._tokens(canvases, group, spec, context)
            seen: list[list[HalfArray]] = []
            for view in views:
                drawn = await self.pool.run(view.draw, canvases)
                seen.append(await self._tokens(drawn, group, spec, context, view))
            for index, (own, p) in enumerate(zip(tokens, group, strict=True)):
                copies = await self.pool.run(np.stack, [view[index] for view in seen]) if seen else None
                embedded.append(Embedded(own, p.box, p.mask, p.patches, p.sha256, copies))
        return embedded

    async def embed(
        self,
        photographs: Sequence[Photograph],
        spec: BackboneSpec,
        context: CallContext,
        progress: Callable[[float], None] | None = None,
        *,
        options: MemoryOptions | None = None,
        for_bank: bool = False,
    ) -> list[Embedded]:
        """Embed photographs, in order, two batches at a time: no more pixels are held.

        options: of the bank that they meet; plain ones by default. for_bank: with the views that enter it. progress:
        called with the share done. Raises as `prepare` and the extractor.
        """
        options = options or MemoryOptions()
        views = VIEWS[options.augmentation] if for_bank else ()
        embedded: list[Embedded] = []
        # One photograph is a batch where it comes in windows.
        step = 2 * (1 if options.tiling else self.batch_size)
        for start in range(0, len(photographs), step):
            prepared = await asyncio.gather(
                *(self.prepare(p, spec, options.tiling) for p in photographs[start : start + step])
            )
            # Two equal calls side by side: no instance of the model waits while another works.
            half = (len(prepared) + 1) // 2
            halves = [h for h in (prepared[:half], prepared[half:]) if h]
            for tokens in await asyncio.gather(*(self.extract(h, spec, context, views) for h in halves)):
                embedded += tokens
            if progress is not None:
                progress(len(embedded) / len(photographs))
        return embedded

    async def _tokens(
        self,
        canvases: ImageArray,
        group: Sequence[Prepared],
        spec: BackboneSpec,
        context: CallContext,
        view: View | None = None,
    ) -> list[HalfArray]:
        tokens = await self.extractor.extract(canvases, spec, context)
        if view is None and len(canvases) == len(group):
            return list(tokens)
        return await self.pool.run(_merge, tokens, group, spec, view)


def _calls(prepared: Sequence[Prepared]) -> Iterator[Sequence[Prepared]]:
    """Group photographs so that no call is larger than a batch, unless one photograph alone is."""
    group: list[Prepared] = []
    for one in prepared:
        if group and sum(len(p.canvases) for p in group) + len(one.canvases) > _CALL_CANVASES:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _merge(
    tokens: HalfArray, group: Sequence[Prepared], spec: BackboneSpec, view: View | None
) -> list[HalfArray]:
    """Give every photograph its own tokens, turned back and joined over its windows."""
    upright = tokens if view is None else view.restore(tokens, spec.grid)
    ends = np.cumsum([len(p.canvases) for p in group])
    parts = np.split(upright, ends[:-1])
    return [
        merge_tokens(part, p.box, spec.grid) if isinstance(p.box, TiledFrame) else part[0]
        for part, p in zip(parts, group, strict=True)
    ]
