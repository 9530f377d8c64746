"""What every extractor checks before and after a call: the images it is given, the tokens it got."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import FeatureContractBroken

# Sign stripped, every finite half lies below the bit pattern of infinity.
_HALF_MAGNITUDE, _HALF_INFINITY = np.uint16(0x7FFF), 0x7C00


def check_images(images: ImageArray, spec: BackboneSpec) -> None:
    """Refuse what the graph was not exported for.

    Raises FeatureContractBroken where images is not (B, H, W, 3) uint8 at spec.input_size.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*spec.input_size, 3):
        raise FeatureContractBroken(
            f"{spec.label} takes uint8 images {(*spec.input_size, 3)}, got {images.dtype} {images.shape[1:]}"
        )


def check_tokens(tokens: NDArray[Any], batch: int, spec: BackboneSpec) -> HalfArray:
    """Give the tokens back where they are what the manifest says.

    Raises FeatureContractBroken where they are not (B, N, D) finite float16.
    """
    expected = (batch, spec.grid[0] * spec.grid[1], spec.dim)
    if tokens.shape != expected or tokens.dtype != np.float16:
        raise FeatureContractBroken(
            f"{spec.label} answered {tokens.dtype} {tokens.shape}, its manifest says float16 {expected}"
        )
    if tokens.size and int((tokens.view(np.uint16) & _HALF_MAGNITUDE).max()) >= _HALF_INFINITY:
        raise FeatureContractBroken(f"{spec.label} answered tokens that are not finite")
    return tokens


def no_tokens(spec: BackboneSpec) -> HalfArray:
    """Give the answer to no images: (0, N, D)."""
    return np.zeros((0, spec.grid[0] * spec.grid[1], spec.dim), np.float16)


def split_batch(images: ImageArray, size: int) -> Iterator[ImageArray]:
    """Cut B images into runs of at most `size`, in order."""
    for start in range(0, len(images), size):
        yield images[start : start + size]
