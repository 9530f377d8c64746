"""The picture that answers "why": two crops side by side, a patch marked in each and shown again enlarged.

Pixels in, PNG out; knows no bank and no store. Its size is bounded, whatever the crops'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from orchestrator.domain.arrays import ImageArray

PANEL = 640
"""Side of the square that each crop is fitted into, px."""
INSET = 224
"""Side of each enlargement, px: a patch and half as much around it."""
MARGIN = 16
LINE = 24

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Pixels = tuple[int, int, int, int]
ASKED: Colour = (255, 64, 32)
STORED: Colour = (0, 150, 255)
_PAGE: Colour = (243, 244, 247)
_EMPTY: Colour = (214, 218, 224)
_INK: Colour = (28, 33, 40)
_HALO: Colour = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SCALE = 0.5
_LEAST_MARK = 8


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One side of the sheet.

    pixels: (H, W, 3) uint8 RGB, or a sentence that says why there are none. patch: what it covers of the crop,
    (left, top, right, bottom), px.
    """

    pixels: ImageArray | str
    patch: Box
    captions: Sequence[str]


def explain_sheet(asked: Panel, stored: Panel) -> bytes:
    """Draw both sides as one PNG: the crops, below them the enlarged patches and the captions."""
    height = 3 * MARGIN + PANEL + INSET
    sheet: ImageArray = np.full((height, 3 * MARGIN + 2 * PANEL, 3), _PAGE, dtype=np.uint8)
    for panel, left, colour in ((asked, MARGIN, ASKED), (stored, 2 * MARGIN + PANEL, STORED)):
        crop = sheet[MARGIN : MARGIN + PANEL, left : left + PANEL]
        below = sheet[2 * MARGIN + PANEL : -MARGIN, left : left + PANEL]
        crop[:], below[:, :INSET] = _EMPTY, _EMPTY
        if isinstance(panel.pixels, str):
            _write(crop[:, 2 * MARGIN : -2 * MARGIN], panel.pixels, PANEL // 2)
        else:
            size = panel.pixels.shape[0], panel.pixels.shape[1]
            _paste(crop, panel.pixels, place(size))
            _outline(crop, mark(size, panel.patch), colour)
            _enlarge(below[:, :INSET], panel.pixels, panel.patch, colour)
        for line, caption in enumerate(panel.captions, start=1):
            _write(below[:, INSET + MARGIN :], caption, line * LINE - 8)
    return cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))[1].tobytes()


def place(size: tuple[int, int]) -> Pixels:
    """Give where a crop of (H, W) px lies in its panel: (left, top, right, bottom), aspect kept to the pixel."""
    scale = PANEL / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    left, top = (PANEL - width) // 2, (PANEL - height) // 2
    return left, top, left + width, top + height


def mark(size: tuple[int, int], patch: Box) -> Pixels:
    """Give where a crop's patch lies in its panel: (left, top, right, bottom); a tiny one grows until it is seen."""
    left, top, right, bottom = place(size)
    across, down = (right - left) / size[1], (bottom - top) / size[0]
    x0, y0, x1, y1 = patch
    return _visible((left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down))


def _enlarge(inset: ImageArray, pixels: ImageArray, patch: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = patch
    side = math.ceil(2 * max(x1 - x0, y1 - y0, 1.0))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    # Cut before it is scaled: a window over a long thin crop is mostly outside it.
    cut = pixels[max(top, 0) : top + side, max(left, 0) : left + side]
    scale = INSET / side
    at_x, at_y = round((max(left, 0) - left) * scale), round((max(top, 0) - top) * scale)
    width, height = (max(1, round(n * scale)) for n in (cut.shape[1], cut.shape[0]))
    _paste(inset, cut, (at_x, at_y, min(at_x + width, INSET), min(at_y + height, INSET)))
    corners = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
    _outline(inset, _visible(corners), colour)


def _paste(canvas: ImageArray, pixels: ImageArray, where: Pixels) -> None:
    left, top, right, bottom = where
    shrinks = (right - left) * (bottom - top) < pixels.shape[0] * pixels.shape[1]
    canvas[top:bottom, left:right] = cv2.resize(
        pixels, (right - left, bottom - top), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def _visible(box: Box) -> Pixels:
    def widen(low: float, high: float) -> tuple[int, int]:
        centre, half = (low + high) / 2, max(high - low, _LEAST_MARK) / 2
        return round(centre - half), round(centre + half)

    (left, right), (top, bottom) = widen(box[0], box[2]), widen(box[1], box[3])
    return left, top, right, bottom


def _outline(canvas: ImageArray, box: Pixels, colour: Colour) -> None:
    """Frame a box from outside, so that its pixels stay to be seen; a halo keeps the frame visible on any part."""
    left, top, right, bottom = box
    limit = canvas.shape[1] - 1, canvas.shape[0] - 1
    for away, ink in ((3, _HALO), (2, colour), (1, colour)):
        x0, y0 = max(left - away, 0), max(top - away, 0)
        x1, y1 = min(right - 1 + away, limit[0]), min(bottom - 1 + away, limit[1])
        canvas[[y0, y1], x0 : x1 + 1] = ink
        canvas[y0 : y1 + 1, [x0, x1]] = ink


def _write(canvas: ImageArray, text: str, baseline: int) -> None:
    line = text.encode("ascii", "replace").decode()
    kept = len(line)
    while kept > 1 and _width(_shortened(line, kept)) > canvas.shape[1]:
        kept -= 1
    # OpenCV draws on contiguous pixels only.
    drawn = np.ascontiguousarray(canvas)
    cv2.putText(drawn, _shortened(line, kept), (0, baseline), _FONT, _TEXT_SCALE, _INK, 1, cv2.LINE_AA)
    canvas[:] = drawn


def _shortened(line: str, kept: int) -> str:
    return line if kept == len(line) else f"{line[: kept // 2]}...{line[len(line) - (kept - kept // 2) :]}"


def _width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _TEXT_SCALE, 1)[0][0])
