"""From posted bytes to what the graph sees: strict decoding, EXIF orientation, letterbox. Knows no model.

Size limits are enforced from the header, before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from orchestrator.domain.arrays import ImageArray
from orchestrator.domain.backbone import Padding
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.samples import EXTENSIONS
from orchestrator.errors import InvalidImage, PatchlightError, TooLarge

# Our own limit, checked from the header, stands in for Pillow's.
Image.MAX_IMAGE_PIXELS = None

_BORDER = {
    "black": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
}
# What Pillow's decoders raise on damaged files, besides OSError.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    AttributeError,
    ZeroDivisionError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
# OpenCV and libpng refuse longer sides.
MAX_SIDE = 100_000
# A JPEG that carries further pictures (a preview, a depth map) is a JPEG still.
_SAME_FORMAT = {"MPO": "JPEG"}
_REMEDY = "send a whole PNG, JPEG, BMP, TIFF or WebP file."


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """max_bytes: of the file. max_pixels: width times height once decoded."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """pixels: (H, W, 3) uint8 RGB, upright. image_format: the decoder's name ("PNG")."""

    pixels: ImageArray
    image_format: str


def sniff_format(data: bytes, name: str = "image") -> str:
    """Give the decoder's name of the format, from the header alone.

    Raises InvalidImage.
    """
    try:
        with Image.open(io.BytesIO(data), formats=tuple(EXTENSIONS)) as image:
            return _format_of(image)
    except _DAMAGED as error:
        raise InvalidImage(f"{name}: is no image that can be read; {_REMEDY}") from error


def decode_image(data: bytes, limits: ImageLimits, name: str = "image") -> DecodedImage:
    """Decode a photograph; alpha is dropped, 16 bits become 8, EXIF orientation is applied.

    Raises InvalidImage, TooLarge; the sentence begins with `name`.
    """
    if not data:
        raise InvalidImage(f"{name}: the file is empty; {_REMEDY}")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{name}: is over {limits.max_bytes} bytes, the most that is accepted.")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(EXTENSIONS)) as image:
            size = f"{image.width} x {image.height}"
            if image.width * image.height > limits.max_pixels:
                raise TooLarge(f"{name}: is {size} pixels; at most {limits.max_pixels} are accepted.")
            if max(image.size) > MAX_SIDE:
                raise TooLarge(f"{name}: is {size} pixels; a side may have at most {MAX_SIDE}.")
            return DecodedImage(_to_rgb(_upright(image), name), _format_of(image))
    except PatchlightError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{name}: is no image that can be read; {_REMEDY}") from error
    except _DAMAGED as error:
        raise InvalidImage(f"{name}: the image is damaged or cut short ({error}); {_REMEDY}") from error
    except MemoryError as error:
        raise TooLarge(f"{name}: does not fit in memory.") from error


def apply_letterbox(pixels: ImageArray, box: Letterbox, padding: Padding) -> ImageArray:
    """Scale a crop onto its canvas: area averaging when shrinking, bicubic when enlarging.

    pixels: (H, W, 3) uint8. Returns box.canvas + (3,) uint8.
    """
    shrinks = box.height * box.width < pixels.shape[0] * pixels.shape[1]
    scaled = cv2.resize(
        pixels, (box.width, box.height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    top, left = box.top, box.left
    bottom, right = box.canvas[0] - top - box.height, box.canvas[1] - left - box.width
    if not (top or left or bottom or right):
        return np.ascontiguousarray(scaled)
    if padding == "reflect":
        # A border wider than the content can't be mirrored in one step.
        rows = _mirror(box.canvas[0], top, box.height)
        columns = _mirror(box.canvas[1], left, box.width)
        return np.ascontiguousarray(scaled[rows[:, None], columns[None, :]])
    return np.ascontiguousarray(
        cv2.copyMakeBorder(scaled, top, bottom, left, right, _BORDER[padding], value=(0, 0, 0))
    )


def _mirror(length: int, start: int, content: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if content == 1:
        return np.zeros(length, dtype=np.int64)
    period = 2 * (content - 1)
    folded = np.abs(np.arange(length, dtype=np.int64) - start) % period
    mirrored: np.ndarray[tuple[int], np.dtype[np.int64]] = np.minimum(folded, period - folded)
    return mirrored


def _format_of(image: Image.Image) -> str:
    name = image.format or ""
    return _SAME_FORMAT.get(name, name)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED:
        # A damaged EXIF block says nothing of the pixels.
        return image


def _to_rgb(image: Image.Image, name: str) -> ImageArray:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InvalidImage(f"{name}: 32-bit samples ({image.mode}) are not supported; {_REMEDY}")
    if image.mode in ("RGBA", "RGBX", "LA", "PA", "La", "RGBa"):
        # Alpha is a mask for people here, not opacity: the colours under it stay as they are.
        image = (
            Image.merge("RGB", image.split()[:3]) if image.mode in ("RGBA", "RGBX") else image.convert("RGBA")
        )
    # A transparent colour is alpha too.
    image.info.pop("transparency", None)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")), dtype=np.uint8)
