"""The picture that answers "why": its size, its marks and its words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.domain.arrays import ImageArray
from orchestrator.services.explain_sheet import (
    ASKED,
    INSET,
    MARGIN,
    PANEL,
    STORED,
    Colour,
    Panel,
    explain_sheet,
    mark,
    place,
)

SIZE = (3 * MARGIN + PANEL + INSET, 3 * MARGIN + 2 * PANEL)


def drawn(asked: Panel, stored: Panel) -> ImageArray:
    image = Image.open(io.BytesIO(explain_sheet(asked, stored)))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def grey(size: tuple[int, int], value: int = 90) -> ImageArray:
    return np.full((*size, 3), value, dtype=np.uint8)


def panel_of(sheet: ImageArray, side: int) -> ImageArray:
    left = MARGIN + side * (MARGIN + PANEL)
    return sheet[MARGIN : MARGIN + PANEL, left : left + PANEL]


def inset_of(sheet: ImageArray, side: int) -> ImageArray:
    left = MARGIN + side * (MARGIN + PANEL)
    return sheet[2 * MARGIN + PANEL : -MARGIN, left : left + INSET]


def extent(pixels: ImageArray, colour: Colour) -> tuple[int, int, int, int]:
    """Give the box around a colour: (left, top, right, bottom)."""
    ys, xs = np.nonzero((pixels == colour).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_each_patch_is_framed_where_it_lies_and_stays_to_be_seen() -> None:
    asked, stored = grey((64, 128)), grey((128, 128))
    asked[16:32, 48:64], stored[0:16, 112:128] = (1, 200, 3), (4, 5, 210)
    sheet = drawn(Panel(asked, (48, 16, 64, 32), ["a"]), Panel(stored, (112, 0, 128, 16), ["b"]))
    assert sheet.shape[:2] == SIZE
    # 128 px become 640: five times; the flat crop is centred 160 px down.
    assert extent(panel_of(sheet, 0), ASKED) == (240 - 2, 160 + 80 - 2, 320 + 2, 160 + 160 + 2)
    assert extent(panel_of(sheet, 1), STORED) == (560 - 2, 0, 640, 80 + 2)
    assert tuple(panel_of(sheet, 0)[160 + 120, 280]) == (1, 200, 3)
    assert tuple(panel_of(sheet, 1)[40, 600]) == (4, 5, 210)
    # Enlarged: the patch in the middle half of its inset.
    quarter = INSET // 4
    assert extent(inset_of(sheet, 0), ASKED) == (quarter - 2, quarter - 2, 3 * quarter + 2, 3 * quarter + 2)
    assert tuple(inset_of(sheet, 0)[INSET // 2, INSET // 2]) == (1, 200, 3)
    assert tuple(inset_of(sheet, 0)[10, 10]) == (90, 90, 90)
    assert tuple(inset_of(sheet, 1)[INSET // 2, INSET // 2]) == (4, 5, 210)


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (2, 3), (3000, 4000), (700, 640)])
def test_the_sheet_has_one_size_whatever_the_crop_s(size: tuple[int, int]) -> None:
    height, width = size
    patch = (width * 0.9, height * 0.5, float(width), float(height))
    sheet = drawn(Panel(grey(size), patch, []), Panel(grey(size, 30), patch, []))
    assert sheet.shape[:2] == SIZE
    left, top, right, bottom = place(size)
    assert 0 <= left < right <= PANEL
    assert 0 <= top < bottom <= PANEL
    assert max(right - left, bottom - top) == PANEL
    assert (panel_of(sheet, 0)[(top + bottom) // 2, left] == 90).all()
    x0, y0, x1, y1 = mark(size, patch)
    assert min(x1 - x0, y1 - y0) >= 8
    for side, colour in ((0, ASKED), (1, STORED)):
        framed = extent(panel_of(sheet, side), colour)
        assert framed == (max(x0 - 2, 0), max(y0 - 2, 0), min(x1 + 2, PANEL), min(y1 + 2, PANEL))
        extent(inset_of(sheet, side), colour)


def test_a_side_without_pixels_says_why() -> None:
    asked = Panel(grey((20, 20)), (0, 0, 5, 5), [])
    empty = drawn(asked, Panel("", (0, 0, 0, 0), []))
    told = drawn(asked, Panel("It is no longer stored.", (0, 0, 0, 0), []))
    assert (panel_of(empty, 1) == panel_of(empty, 1)[0, 0]).all()
    assert (panel_of(told, 1) != panel_of(empty, 1)).any()
    np.testing.assert_array_equal(panel_of(told, 0), panel_of(empty, 0))
    assert not (told == STORED).all(axis=2).any()


def test_long_names_and_other_scripts_stay_on_the_sheet() -> None:
    names = ["x" * 3000, "Prüfung-检查-\udcff.png", "", "\n\t", "y" * 47, "sixth"]
    sheet = drawn(Panel(grey((9, 9)), (0, 0, 3, 3), names), Panel(grey((9, 9)), (0, 0, 3, 3), []))
    plain = drawn(Panel(grey((9, 9)), (0, 0, 3, 3), []), Panel(grey((9, 9)), (0, 0, 3, 3), []))
    changed = np.nonzero((sheet != plain).any(axis=2))
    assert changed[0].min() >= 2 * MARGIN + PANEL
    assert changed[1].min() >= MARGIN + INSET + MARGIN
    assert changed[1].max() < MARGIN + PANEL
