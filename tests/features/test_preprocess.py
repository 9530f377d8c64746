from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestrator.domain.letterbox import Letterbox
from orchestrator.errors import InvalidImage, PatchlightError, TooLarge
from orchestrator.features.preprocess import (
    MAX_SIDE,
    ImageLimits,
    apply_letterbox,
    decode_image,
    sniff_format,
)
from tests.pictures import encode, part, png

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)
PICTURE = Image.fromarray(part(3))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_published_formats_are_read(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = decode_image(encode(PICTURE, image_format, **options), LIMITS)
    assert decoded.image_format == sniff_format(encode(PICTURE, image_format)) == image_format
    assert (decoded.pixels.dtype, decoded.pixels.shape) == (np.uint8, (96, 128, 3))
    tolerance = 30 if image_format == "JPEG" else 0
    assert np.abs(decoded.pixels.astype(int) - np.asarray(PICTURE)).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA", "CMYK", "I;16", "YCbCr", "LAB"])
def test_colour_modes_become_rgb(mode: str) -> None:
    grey = PICTURE.convert("L")
    match mode:
        case "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        case "PA":
            image = PICTURE.convert("P").convert("PA")
        case "LAB":
            image = Image.merge("LAB", [grey, grey, grey])
        case _:
            image = PICTURE.convert(mode)
    image_format = {"CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    pixels = decode_image(encode(image, image_format), LIMITS).pixels
    assert pixels.shape == (96, 128, 3)
    if mode == "I;16":
        assert np.array_equal(pixels[..., 0], np.asarray(grey))
    elif mode not in ("LAB", "1"):
        assert np.abs(pixels.mean(axis=2) - np.asarray(PICTURE).mean(axis=2)).mean() < 20


def test_palette_transparency_is_dropped_without_a_warning() -> None:
    image = PICTURE.convert("P")
    data = encode(image, "PNG", transparency=bytes([0] * 256))
    assert np.array_equal(decode_image(data, LIMITS).pixels, np.asarray(image.convert("RGB")))


def test_colours_under_zero_alpha_stay() -> None:
    masked = PICTURE.copy()
    masked.putalpha(0)
    assert np.array_equal(decode_image(encode(masked, "PNG"), LIMITS).pixels, np.asarray(PICTURE))
    grey = PICTURE.convert("L")
    faded = Image.merge("LA", [grey, Image.new("L", grey.size, 0)])
    assert np.array_equal(decode_image(encode(faded, "PNG"), LIMITS).pixels[..., 0], np.asarray(grey))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_of_either_byte_order(order: str) -> None:
    values = (np.asarray(PICTURE.convert("L")).astype(np.uint16) * 256).astype(f"{order}u2")
    image = Image.frombytes("I;16B" if order == ">" else "I;16", PICTURE.size, values.tobytes())
    pixels = decode_image(encode(image, "TIFF"), LIMITS).pixels
    assert np.array_equal(pixels[..., 1], np.asarray(PICTURE.convert("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = PICTURE.transpose(undo[orientation]) if orientation in undo else PICTURE
    assert np.array_equal(decode_image(encode(stored, "PNG", exif=exif), LIMITS).pixels, np.asarray(PICTURE))


# Pillow warns of what it skips.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_says_nothing_of_the_pixels() -> None:
    data = encode(PICTURE, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode_image(data, LIMITS).pixels.shape == (96, 128, 3)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.fromarray(part(i)) for i in range(3)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_image(data, LIMITS).pixels, np.asarray(frames[0]))


def test_a_jpeg_with_further_pictures_is_a_jpeg() -> None:
    data = encode(PICTURE, "MPO", save_all=True, append_images=[PICTURE])
    assert sniff_format(data) == decode_image(data, LIMITS).image_format == "JPEG"


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a", b"\xff\xd8\xff", b"BM", b"II*\x00", b"%PDF"])
def test_what_is_no_image_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"^crop\.png: "):
        decode_image(data, LIMITS, "crop.png")


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_a_truncated_image_is_refused(image_format: str) -> None:
    data = encode(PICTURE, image_format)
    with pytest.raises(InvalidImage):
        decode_image(data[: len(data) // 2], LIMITS)


def test_formats_outside_the_list_are_refused() -> None:
    for image_format in ("GIF", "PPM", "ICO", "TGA"):
        with pytest.raises(InvalidImage):
            decode_image(encode(PICTURE, image_format), LIMITS)


def test_32_bit_samples_are_refused() -> None:
    image = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(InvalidImage, match="32-bit"):
        decode_image(encode(image, "TIFF"), LIMITS)


def _header_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def test_size_limits_hold_before_anything_is_decoded() -> None:
    # No pixel is in these files: reading one would be an InvalidImage.
    with pytest.raises(TooLarge, match="60000 x 60000"):
        decode_image(_header_of(60_000, 60_000), LIMITS)
    with pytest.raises(TooLarge, match="side"):
        decode_image(_header_of(MAX_SIDE + 1, 1), LIMITS)
    with pytest.raises(TooLarge, match="bytes"):
        decode_image(b"\x89PNG" + bytes(1 << 20), LIMITS)
    with pytest.raises(InvalidImage):
        decode_image(_header_of(MAX_SIDE, 1), LIMITS)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["PNG", "BMP", "TIFF", "WEBP", "JPEG", "MPO"]), st.data())
def test_damaged_files_raise_product_errors_only(image_format: str, data: st.DataObject) -> None:
    good = bytearray(encode(Image.fromarray(part(1, size=(16, 20))), image_format))
    for _ in range(data.draw(st.integers(1, 12))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_image(bytes(good), LIMITS)
        sniff_format(bytes(good))
    except PatchlightError:
        pass


@pytest.mark.parametrize("padding", ["black", "edge", "reflect"])
@pytest.mark.parametrize("size", [(96, 128), (128, 96), (64, 64), (1, 300), (300, 1), (1, 1), (2000, 3)])
def test_the_canvas_holds_the_crop_where_the_letterbox_says(padding: str, size: tuple[int, int]) -> None:
    box = Letterbox.fit(size, (112, 112))
    crop = np.full((*size, 3), 77, np.uint8)
    canvas = apply_letterbox(crop, box, padding)  # type: ignore[arg-type]
    assert canvas.shape == (112, 112, 3)
    content = canvas[box.top : box.top + box.height, box.left : box.left + box.width]
    assert (content == 77).all()
    assert (canvas == 77).all() == (padding != "black" or content.size == canvas.size)


def test_a_crop_of_the_canvas_s_size_is_untouched() -> None:
    crop = part(1, size=(112, 112))
    assert np.array_equal(apply_letterbox(crop, Letterbox.fit((112, 112), (112, 112)), "black"), crop)


def test_reflection_mirrors_the_content() -> None:
    crop = part(1, size=(56, 112))
    canvas = apply_letterbox(crop, Letterbox.fit((56, 112), (112, 112)), "reflect")
    assert np.array_equal(canvas[27], crop[1])
    assert np.array_equal(canvas[84], crop[54])


def test_png_helper_round_trips() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(part(2))))), part(2))
