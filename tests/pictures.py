"""Small photographs for tests: good parts that resemble each other, bad ones with a bright square."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from orchestrator.domain.arrays import ImageArray


def part(seed: int, *, bad: bool = False, size: tuple[int, int] = (96, 128)) -> ImageArray:
    """Draw a part: (H, W, 3) uint8 RGB."""
    noise = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]]
    base = 110 + 50 * np.sin(xs / 9) + 25 * np.cos(ys / 13)
    image = np.repeat(base[:, :, None], 3, axis=2) + noise.normal(0, 2, (*size, 3))
    if bad:
        y, x = noise.integers(size[0] // 4, size[0] // 2), noise.integers(size[1] // 4, size[1] // 2)
        image[y : y + size[0] // 4, x : x + size[1] // 4] = (250, 30, 240)
    return np.clip(image, 0, 255).astype(np.uint8)


def png(image: ImageArray) -> bytes:
    """Encode as PNG."""
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Encode with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def good(count: int, start: int = 0, *, size: tuple[int, int] = (96, 128)) -> list[bytes]:
    """Give PNGs of good parts, all different."""
    return [png(part(start + i, size=size)) for i in range(count)]


def bad(count: int, start: int = 1000, *, size: tuple[int, int] = (96, 128)) -> list[bytes]:
    """Give PNGs of bad parts, all different."""
    return [png(part(start + i, bad=True, size=size)) for i in range(count)]
