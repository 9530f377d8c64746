"""The two small figures at the head of a contact sheet: how scores are spread, and what the colours mean.

Knows how to draw on a Pillow canvas; knows no photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from orchestrator.demo.heat import HeatScale, colours, opacity

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK: Colour = (28, 33, 40)
FAINT: Colour = (104, 112, 123)
LINE: Colour = (214, 218, 224)
GOOD: Colour = (31, 138, 86)
BAD: Colour = (201, 52, 68)
_BINS = 28
_DRAWABLE = frozenset({*range(0x20, 0x7F), *range(0xA0, 0x100), ord("…")})


@cache
def font(size: int) -> Font:
    """Load Pillow's own font, at a height in px."""
    return ImageFont.load_default(size)


def shorten(text: str, width: int, size: int) -> str:
    """Cut a text's middle so that it is at most `width` px wide in one line.

    Characters that the font cannot draw become question marks."""
    line = "".join(c if ord(c) in _DRAWABLE else "?" for c in text)
    if font(size).getlength(line) <= width:
        return line
    for kept in range(len(line) - 1, 0, -1):
        head = kept // 2
        cut = f"{line[:head]}…{line[len(line) - (kept - head) :]}"
        if font(size).getlength(cut) <= width:
            return cut
    return "…"


def number(value: float) -> str:
    """Write a score in four significant digits, without an exponent where that stays short."""
    if not np.isfinite(value):
        return "n/a"
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def draw_histogram(
    canvas: Image.Image,
    box: tuple[int, int, int, int],
    ok_scores: Sequence[float],
    ng_scores: Sequence[float],
    thresholds: Sequence[float],
) -> None:
    """Draw how the scores of good and defective parts are spread, and where the threshold cuts.

    box: left, top, right, bottom, px.
    """
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = box
    ok, ng = (np.array([s for s in scores if np.isfinite(s)]) for scores in (ok_scores, ng_scores))
    _key(draw, left, top, (("good", GOOD, len(ok)), ("defective", BAD, len(ng))))
    floor, roof = bottom - 20, top + 46
    draw.line((left, floor, right, floor), fill=LINE)
    seen = np.concatenate([ok, ng, np.asarray(thresholds, dtype=np.float64)])
    if seen.size == 0:
        draw.text((left, (roof + floor) // 2), "no scores", font=font(14), fill=FAINT, anchor="lm")
        return
    low, high = float(seen.min()), float(seen.max())
    pad = 0.04 * (high - low) or 0.5 * max(abs(low), 1e-6)
    edges = np.linspace(low - pad, high + pad, _BINS + 1)
    xs = np.linspace(left, right, _BINS + 1)
    counts_ok, counts_ng = np.histogram(ok, edges)[0], np.histogram(ng, edges)[0]
    tallest = max(1, int((counts_ok + counts_ng).max()))
    for i in range(_BINS):
        foot = float(floor)
        for count, colour in ((int(counts_ok[i]), GOOD), (int(counts_ng[i]), BAD)):
            if count:
                head = foot - count * (floor - roof) / tallest
                draw.rectangle((xs[i] + 1, head, xs[i + 1] - 1, foot - 1), fill=colour)
                foot = head
    for threshold in thresholds:
        x = float(np.interp(threshold, edges, xs))
        draw.line((x, roof - 6, x, floor + 4), fill=INK, width=2)
    if len(thresholds) == 1:
        _beside(
            draw,
            float(np.interp(thresholds[0], edges, xs)),
            roof - 14,
            f"threshold {number(thresholds[0])}",
            box,
        )
    draw.text((left, bottom), number(low), font=font(13), fill=FAINT, anchor="ls")
    draw.text((right, bottom), number(high), font=font(13), fill=FAINT, anchor="rs")


def draw_legend(
    canvas: Image.Image, box: tuple[int, int, int, int], scale: HeatScale, thresholds: Sequence[float]
) -> None:
    """Draw the colour scale as it looks over a grey photograph, the threshold marked on it. box: px."""
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = box
    draw.text((left, top), "anomaly map: distance to the nearest good patch", font=font(15), fill=INK)
    roof, floor = top + 46, bottom - 20
    places = np.linspace(0, 1, right - left, dtype=np.float32)
    cover = opacity(places)[:, None]
    strip = (128 * (1 - cover) + colours(places) * cover).astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(strip[None], floor - roof, axis=0)), (left, roof))
    for threshold in thresholds:
        x = left + float(scale.place(threshold)) * (right - left)
        draw.line((x, roof - 6, x, floor + 4), fill=INK, width=2)
    if len(thresholds) == 1:
        x = left + float(scale.place(thresholds[0])) * (right - left)
        _beside(draw, x, roof - 14, f"threshold {number(thresholds[0])}", box)
    draw.text((left, bottom), f"{number(scale.low)} or less", font=font(13), fill=FAINT, anchor="ls")
    draw.text((right, bottom), f"{number(scale.high)} or more", font=font(13), fill=FAINT, anchor="rs")


def _key(
    draw: ImageDraw.ImageDraw, left: int, top: int, entries: tuple[tuple[str, Colour, int], ...]
) -> None:
    draw.text((left, top), "image scores", font=font(15), fill=INK)
    x = left + font(15).getlength("image scores") + 18
    for name, colour, count in entries:
        draw.rectangle((x, top + 4, x + 10, top + 14), fill=colour)
        text = f"{name} ({count})"
        draw.text((x + 16, top + 1), text, font=font(14), fill=FAINT)
        x += 16 + font(14).getlength(text) + 16


def _beside(draw: ImageDraw.ImageDraw, x: float, y: int, text: str, box: tuple[int, int, int, int]) -> None:
    half = font(13).getlength(text) / 2
    x = min(max(x, box[0] + half), box[2] - half)
    draw.text((x, y), text, font=font(13), fill=INK, anchor="mm")
