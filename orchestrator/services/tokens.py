"""Tokens of stored photographs: taken from the cache where they lie in it, computed and kept where they don't.

Photographs that are stored with the fit are kept before it is committed: a request that fails and comes again need not
compute them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.domain.shapes import parse_shape
from orchestrator.domain.tiles import frame_of
from orchestrator.errors import InvalidInput
from orchestrator.features.base import CallContext
from orchestrator.patchcore.masks import rasterise
from orchestrator.services.embed import Embedded, Embedder, Photograph, RawShape
from orchestrator.storage.tokens import StoredTokens, TokenKey, TokenStore

DEFAULT_OPTIONS = MemoryOptions()


class SampleTokens:
    """Embeds photographs that are stored, or will be once the request has succeeded."""

    def __init__(self, embedder: Embedder, store: TokenStore) -> None:
        self._embedder = embedder
        self._store = store

    async def embed(
        self,
        photographs: Sequence[Photograph],
        spec: BackboneSpec,
        context: CallContext,
        progress: Callable[[float], None] | None = None,
        *,
        options: MemoryOptions = DEFAULT_OPTIONS,
        for_bank: bool = False,
    ) -> list[Embedded]:
        """Embed photographs, in order; only those without tokens are decoded.

        for_bank: with the views that enter it, which are not kept: they take several times the room. progress: called
        with the share done. Raises as `Embedder.embed`.
        """
        if for_bank and options.augmentation != "none":
            return await self._embedder.embed(
                photographs, spec, context, progress, options=options, for_bank=True
            )
        pool = self._embedder.pool
        found = await pool.run_fit(lambda: [self._find(p, spec, options) for p in photographs])
        missing = [place for place, embedded in enumerate(found) if embedded is None]
        step = 2 * self._embedder.batch_size
        for start in range(0, len(missing), step):
            places = missing[start : start + step]
            batch = [photographs[place] for place in places]
            fresh = await self._embedder.embed(batch, spec, context, options=options)
            await pool.run_fit(self._keep, batch, fresh, spec, options)
            for place, embedded in zip(places, fresh, strict=True):
                found[place] = embedded
            if progress is not None:
                progress(1 - (len(missing) - start - len(places)) / len(photographs))
        return [embedded for embedded in found if embedded is not None]

    def recall(
        self, sha256: str, shape: RawShape, spec: BackboneSpec, options: MemoryOptions = DEFAULT_OPTIONS
    ) -> Embedded | None:
        """Give the tokens of a photograph that itself is gone; None where they are not in the cache."""
        stored = self._store.find(TokenKey(sha256, spec.fingerprint, _view(shape, options)))
        if stored is None or stored.tokens.shape[1] != spec.dim:
            return None
        return _rebuild(stored, sha256, shape, spec, options)

    def forget(self, sha256: str) -> None:
        """Remove a photograph's tokens from the cache."""
        self._store.forget(sha256)

    def _find(self, photograph: Photograph, spec: BackboneSpec, options: MemoryOptions) -> Embedded | None:
        self._embedder.pool.keep_going()
        return self.recall(hashlib.sha256(photograph.data).hexdigest(), photograph.shape, spec, options)

    def _keep(
        self,
        photographs: Sequence[Photograph],
        embedded: Sequence[Embedded],
        spec: BackboneSpec,
        options: MemoryOptions,
    ) -> None:
        for photograph, tokens in zip(photographs, embedded, strict=True):
            key = TokenKey(tokens.sha256, spec.fingerprint, _view(photograph.shape, options))
            if not self._store.keep(key, StoredTokens(tokens.tokens, tokens.patches, tokens.box.crop)):
                # A full disk refuses the next one too.
                break


def same_shape(one: RawShape, other: RawShape) -> bool:
    """Tell whether two ROIs are the same, whether text or object."""
    return _canonical(one) == _canonical(other)


def _rebuild(
    stored: StoredTokens, sha256: str, shape: RawShape, spec: BackboneSpec, options: MemoryOptions
) -> Embedded | None:
    try:
        frame, _ = frame_of(stored.crop, spec.input_size, spec.grid, options.tiling)
        mask = rasterise(parse_shape(shape, stored.crop), stored.crop)
    except InvalidInput:
        # The way through the decoder says it with the photograph's name.
        return None
    return Embedded(stored.tokens, frame, mask, stored.patches, sha256)


def _view(shape: RawShape, options: MemoryOptions) -> str:
    # Of the options only these change what is embedded, and how.
    tiling = asdict(options.tiling) if options.tiling is not None else None
    content = {"shape": _canonical(shape), "tiling": tiling, "version": options.version}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _canonical(shape: RawShape) -> str | None:
    if not shape:
        return None
    try:
        fields = json.loads(shape) if isinstance(shape, str) else shape
        return json.dumps(fields, sort_keys=True) if fields is not None else None
    except (ValueError, RecursionError):
        # No ROI at all; whoever parses it says so.
        return str(shape)
