"""The contact sheet: one PNG that shows each inspected photograph, its anomaly map and its verdict.

Knows the page; `heat` paints the panels and `chart` the figures at the head. Knows no model and no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from orchestrator.demo.chart import (
    BAD,
    FAINT,
    GOOD,
    INK,
    LINE,
    Colour,
    draw_histogram,
    draw_legend,
    font,
    number,
    shorten,
)
from orchestrator.demo.heat import TRUTH_COLOUR, HeatScale, heat_panel, photograph_panel
from orchestrator.domain.arrays import FloatArray, ImageArray, MaskArray
from orchestrator.errors import InvalidInput

_PAGE: Colour = (243, 244, 247)
_CARD: Colour = (255, 255, 255)
_WRONG: Colour = (214, 122, 8)
_MARGIN, _GAP, _PAD = 32, 16, 10
_PANEL = 208
_CARD_WIDTH = 2 * _PANEL + 6 + 2 * _PAD
_CARD_HEIGHT = _PANEL + 64 + _PAD
_MOST_COLUMNS = 4
_SMOOTH = 4


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One inspected photograph.

    image: (H, W, 3) uint8 RGB. anomaly_map: (H, W) float32 in the score's units, or None. contours: outlines
    of regions, (x, y) in image px. threshold, decision: None where no calibration is in force. truth: None
    where nobody knows. mask: (H, W) bool, the true defect, or None.
    """

    name: str
    image: ImageArray
    anomaly_map: FloatArray | None
    contours: Sequence[ArrayLike]
    score: float
    threshold: float | None
    decision: Literal["ok", "ng"] | None
    truth: Literal["good", "bad"] | None = None
    mask: MaskArray | None = None

    @property
    def is_wrong(self) -> bool:
        """Say whether the decision contradicts the truth; never so where either is unknown."""
        return (self.truth, self.decision) in (("good", "ng"), ("bad", "ok"))


def contact_sheet(
    rows: Sequence[SheetRow],
    path: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    ok_scores: Sequence[float] | None = None,
    ng_scores: Sequence[float] | None = None,
) -> Path:
    """Write a PNG with one card a row, in the order given, and return its path; folders are made as needed.

    All maps share one colour scale. notes: a few short lines below the title. ok_scores, ng_scores: what the
    histogram shows; the rows' own where not given.

    Raises InvalidInput where there is no row, a row's image is not (H, W, 3) uint8 or the file cannot be
    written.
    """
    if not rows:
        raise InvalidInput("a contact sheet needs at least one inspected photograph")
    for row in rows:
        if (
            row.image.ndim != 3
            or row.image.shape[2] != 3
            or row.image.dtype != np.uint8
            or row.image.size == 0
        ):
            raise InvalidInput(f"{row.name}: the image must be (H, W, 3) uint8, not {row.image.shape}")
    thresholds = sorted({r.threshold for r in rows if r.threshold is not None and np.isfinite(r.threshold)})
    scale = HeatScale.of((r.anomaly_map for r in rows if r.anomaly_map is not None), thresholds)
    ok = [r.score for r in rows if r.truth == "good"] if ok_scores is None else ok_scores
    ng = [r.score for r in rows if r.truth == "bad"] if ng_scores is None else ng_scores

    columns = min(_MOST_COLUMNS, max(2, len(rows)))
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    head = _head_height(columns, len(notes))
    lines = -(-len(rows) // columns)
    canvas = Image.new("RGB", (width, head + lines * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN), _PAGE)
    _draw_head(canvas, rows, title, notes, columns)
    left = _MARGIN if columns < _MOST_COLUMNS else width - _MARGIN - 2 * _CARD_WIDTH - _GAP
    top = head - 160 - _GAP
    draw_histogram(canvas, (left, top, left + _CARD_WIDTH, top + 144), ok, ng, thresholds)
    left += _CARD_WIDTH + _GAP + 20
    draw_legend(canvas, (left, top, left + _CARD_WIDTH - 20, top + 144), scale, thresholds)
    for i, row in enumerate(rows):
        x = _MARGIN + (i % columns) * (_CARD_WIDTH + _GAP)
        y = head + (i // columns) * (_CARD_HEIGHT + _GAP)
        _draw_card(canvas, (x, y), row, scale)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(path, format="PNG")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}. Name another file.") from error
    return path


def _head_height(columns: int, notes: int) -> int:
    words = 70 + 24 * (notes + 2)
    # On a narrow page the figures go below the words, on a wide one beside them.
    return _MARGIN + (words + 160 if columns < _MOST_COLUMNS else max(words, 160)) + _GAP


def _draw_head(
    canvas: Image.Image, rows: Sequence[SheetRow], title: str, notes: Sequence[str], columns: int
) -> None:
    draw = ImageDraw.Draw(canvas)
    room = canvas.width - 2 * _MARGIN - (0 if columns < _MOST_COLUMNS else 2 * (_CARD_WIDTH + _GAP) + _GAP)
    draw.text((_MARGIN, _MARGIN - 6), shorten(title, room, 34), font=font(34), fill=INK)
    y = _MARGIN + 50
    for line in (_summary(rows), *notes):
        draw.text((_MARGIN, y), shorten(line, room, 17), font=font(17), fill=FAINT)
        y += 24
    draw.line((_MARGIN, y + 11, _MARGIN + 22, y + 11), fill=INK, width=4)
    draw.line((_MARGIN, y + 11, _MARGIN + 22, y + 11), fill=TRUTH_COLOUR, width=2)
    text = "true defect, left   ·   regions found are outlined in white, right"
    draw.text((_MARGIN + 30, y), shorten(text, room - 30, 17), font=font(17), fill=FAINT)


def _summary(rows: Sequence[SheetRow]) -> str:
    known = [r for r in rows if r.truth is not None and r.decision is not None]
    if not known:
        return f"{len(rows)} inspected"
    escapes = sum(r.is_wrong and r.truth == "bad" for r in known)
    rejects = sum(r.is_wrong and r.truth == "good" for r in known)
    return (
        f"{len(rows)} shown  ·  {len(known) - escapes - rejects} of {len(known)} decided rightly  ·  "
        f"{escapes} missed  ·  {rejects} falsely rejected"
    )


def _draw_card(canvas: Image.Image, corner: tuple[int, int], row: SheetRow, scale: HeatScale) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    frame = (x, y, x + _CARD_WIDTH - 1, y + _CARD_HEIGHT - 1)
    draw.rectangle(
        frame, fill=_CARD, outline=_WRONG if row.is_wrong else LINE, width=3 if row.is_wrong else 1
    )
    heat = heat_panel(row.image, row.anomaly_map, row.contours, scale, _PANEL)
    canvas.paste(Image.fromarray(photograph_panel(row.image, row.mask, _PANEL)), (x + _PAD, y + _PAD))
    canvas.paste(Image.fromarray(heat), (x + _PAD + _PANEL + 6, y + _PAD))
    if row.anomaly_map is None:
        centre = (x + _PAD + _PANEL + 6 + _PANEL // 2, y + _PAD + _PANEL // 2)
        draw.text(centre, "no anomaly map", font=font(15), fill=INK, anchor="mm")

    word, colour = {"ok": ("OK", GOOD), "ng": ("NG", BAD), None: ("?", FAINT)}[row.decision]
    right, line = x + _CARD_WIDTH - _PAD, y + _PAD + _PANEL + 10
    draw.rounded_rectangle((right - 46, line, right, line + 26), 6, fill=colour)
    draw.text((right - 23, line + 13), word, font=font(17), fill=(255, 255, 255), anchor="mm")
    edge = right - 58
    if row.truth is not None and row.decision is not None:
        _mark(canvas, (right - 84, line), row.is_wrong)
        edge = right - 96
    draw.text((x + _PAD, line + 1), shorten(row.name, edge - x - _PAD, 17), font=font(17), fill=INK)

    verdict = "" if not row.is_wrong else "missed defect" if row.truth == "bad" else "false reject"
    draw.text((right, line + 46), verdict, font=font(15), fill=_WRONG, anchor="rs")
    limit = "not calibrated" if row.threshold is None else f"threshold {number(row.threshold)}"
    draw.text((x + _PAD, line + 46), f"score {number(row.score)}", font=font(15), fill=colour, anchor="ls")
    shift = font(15).getlength(f"score {number(row.score)}") + 14
    draw.text((x + _PAD + shift, line + 46), limit, font=font(15), fill=FAINT, anchor="ls")


def _mark(canvas: Image.Image, corner: tuple[int, int], wrong: bool) -> None:
    """Draw a tick or a cross in a disc; drawn large and reduced, for Pillow's lines have no smooth edges."""
    side = 26 * _SMOOTH
    disc = Image.new("RGB", (side, side), _CARD)
    draw = ImageDraw.Draw(disc)
    draw.ellipse(
        (_SMOOTH, _SMOOTH, side - _SMOOTH, side - _SMOOTH), fill=_WRONG if wrong else (226, 243, 234)
    )
    ink, pen = ((255, 255, 255), 3 * _SMOOTH) if wrong else (GOOD, 3 * _SMOOTH)
    strokes = [(8, 8, 18, 18), (18, 8, 8, 18)] if wrong else [(7, 13.5, 11.5, 18), (11, 18, 19, 8.5)]
    for stroke in strokes:
        draw.line([v * _SMOOTH for v in stroke], fill=ink, width=pen)
    canvas.paste(disc.resize((26, 26), Image.Resampling.LANCZOS), corner)
