"""Samples: upload, look at, remove."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.domain.identity import Part
from orchestrator.domain.samples import LABELS, Label, NewSample, StoredSample, sample_shape
from orchestrator.domain.scale import check_against_lock, check_mm_per_px
from orchestrator.domain.shapes import parse_shape
from orchestrator.errors import InvalidInput, NotEnoughSamples, NotFound
from orchestrator.features.preprocess import decode_image
from orchestrator.services.commit import Committer
from orchestrator.services.embed import Embedder, Photograph
from orchestrator.storage.datasets import DatasetStore, Listing

MAX_DEPTH = 32
_TEXTS = ("filename", "timestamp_utc", "created_at_utc", "source", "sha256")


class Datasets:
    """The stored photographs of all parts."""

    def __init__(self, store: DatasetStore, committer: Committer, embedder: Embedder) -> None:
        self._store = store
        self._committer = committer
        self._embedder = embedder

    async def upload(
        self,
        part: Part,
        label: Label,
        images: Sequence[Photograph],
        metas: Sequence[Mapping[str, Any]],
        *,
        mm_per_px: float | None = None,
    ) -> list[StoredSample]:
        """Store photographs, all or none. metas: one for each image, or none at all.

        Raises NotEnoughSamples, InvalidInput, InvalidImage, TooLarge, MmPerPxMismatch, StoreUnavailable.
        """
        if not images:
            raise NotEnoughSamples("images: No images provided; post at least one.")
        if metas and len(metas) != len(images):
            raise InvalidInput(
                f"metas length must match images length: got {len(metas)} metas and {len(images)} images."
            )
        sidecars = [dict(m) for m in metas] or [{} for _ in images]
        scale = _scale(part, sidecars, mm_per_px)
        locked = await asyncio.to_thread(self._committer.locked_scale, part.recipe_id)
        if scale is not None and locked is not None:
            check_against_lock(scale, locked, part.recipe_id)
        known = locked if scale is None else scale
        if known is not None:
            sidecars = [{"mm_per_px": known, **sidecar} for sidecar in sidecars]
        samples = await asyncio.gather(
            *(
                self._embedder.pool.run(self._sample, image, meta)
                for image, meta in zip(images, sidecars, strict=True)
            )
        )
        return await asyncio.to_thread(self._committer.samples, part, label, samples, scale)

    def listing(self, part: Part) -> dict[Label, Listing]:
        """List the photographs of every label that has any."""
        found = {label: self._store.listing(part, label) for label in LABELS}
        return {label: listing for label, listing in found.items() if listing.files}

    def folder(self, part: Part, label: Label) -> str:
        """Give the key of the folder that a label's photographs lie in."""
        return self._store.folder(part, label)

    def read(self, part: Part, label: Label, filename: str) -> bytes:
        """Read a photograph's bytes. Raises NotFound."""
        return self._store.read(part, label, filename)

    def meta(self, part: Part, label: Label, filename: str) -> dict[str, Any]:
        """Read a photograph's sidecar, completed with what its name and bytes say.

        Raises NotFound where it has none, StoreCorrupt.
        """
        stored = self._store.meta(part, label, filename)
        if not stored:
            raise NotFound(f"meta not found: {filename[:255]!r} has no sidecar in {part.label} {label}.")
        if not all(isinstance(stored.get(key), str) for key in _TEXTS):
            # A sidecar from elsewhere: other servers' say less.
            name = filename.replace("\\", "/").rsplit("/", 1)[-1]
            digest = hashlib.sha256(self._store.read(part, label, name)).hexdigest()
            when = str(stored.get("created_at_utc") or stored.get("timestamp_utc") or "")
            own = {"filename": name, "source": "unknown", "timestamp_utc": when, "created_at_utc": when}
            stored |= {k: v for k, v in own.items() if not isinstance(stored.get(k), str)}
            stored["sha256"] = digest
        return stored | {
            "role_id": part.role_id,
            "roi_id": part.roi_id,
            "recipe_id": part.recipe_id,
            "label": label,
        }

    def remove(self, part: Part, label: Label, filename: str) -> bool:
        """Remove a photograph; false where there was none."""
        return self._store.remove(part, label, filename)

    def clear(self, part: Part, label: Label) -> int:
        """Remove all photographs of a label; counts them and their sidecars."""
        return self._store.clear(part, label)

    def _sample(self, image: Photograph, meta: Mapping[str, Any]) -> NewSample:
        decoded = decode_image(image.data, self._embedder.limits, image.name)
        shape = sample_shape(meta)
        if not (shape is None or isinstance(shape, str | dict)):
            raise InvalidInput(f"{image.name}: shape_json must be JSON text or an object.")
        parse_shape(shape, (decoded.pixels.shape[0], decoded.pixels.shape[1]))
        filename = meta.get("filename")
        return NewSample(
            image.data,
            hashlib.sha256(image.data).hexdigest(),
            decoded.image_format,
            meta,
            filename if isinstance(filename, str) else None,
        )


def parse_metas(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read the sidecars that a client sends beside its images.

    Raises InvalidInput where one is no JSON object.
    """
    metas: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        try:
            meta = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(
                f"metas[{index}]: is not JSON; send one JSON object for each image."
            ) from error
        if not isinstance(meta, dict):
            raise InvalidInput(f"metas[{index}]: must be a JSON object, one for each image.")
        if _depth(meta) > MAX_DEPTH:
            raise InvalidInput(f"metas[{index}]: is nested deeper than {MAX_DEPTH} levels.")
        _check_text(meta, index)
        metas.append(meta)
    return metas


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [item for items in inner for item in items]
    return depth


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_text(meta: Mapping[str, Any], index: int) -> None:
    try:
        json.dumps(meta, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"metas[{index}]: holds values that cannot be stored as JSON text.") from error


def _scale(part: Part, sidecars: Sequence[dict[str, Any]], mm_per_px: float | None) -> float | None:
    scale = None if mm_per_px is None else check_mm_per_px(mm_per_px)
    for index, meta in enumerate(sidecars):
        value = meta.get("mm_per_px")
        if value is None:
            meta.pop("mm_per_px", None)
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidInput(f"metas[{index}].mm_per_px: must be a number > 0, in millimetres per pixel.")
        own = check_mm_per_px(_float(value, index), f"metas[{index}].mm_per_px")
        if scale is not None:
            check_against_lock(own, scale, part.recipe_id)
        scale = scale if scale is not None else own
    return scale


def _float(value: float, index: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput(f"metas[{index}].mm_per_px: is too large.") from error
