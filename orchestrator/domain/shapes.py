"""The region of interest a client draws on a crop: what is accepted, what is refused; knows no pixels.

Source: the inspection contract, A5 and B1.2 (`kind` rect, circle or annulus, px of the uploaded crop).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.errors import InvalidInput

# One pixel, and the rounding of a client's own sums.
MARGIN_PX = 1.0 + 1e-6
_OUTER = ("r", "ro")
_INNER = ("r_inner", "ri", "inner_radius")


@dataclass(frozen=True, slots=True)
class Rect:
    """An upright rectangle, px; (x, y) is its top-left corner."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, slots=True)
class Circle:
    """A disc, px."""

    cx: float
    cy: float
    r: float


@dataclass(frozen=True, slots=True)
class Annulus:
    """A disc of radius r without the disc of radius r_inner around the same centre, px."""

    cx: float
    cy: float
    r: float
    r_inner: float


Shape: TypeAlias = Rect | Circle | Annulus


def parse_shape(raw: str | Mapping[str, Any] | None, size: tuple[int, int]) -> Shape | None:
    """Read a shape as clients send and store it; None means the whole image.

    raw: JSON text (a JSON string that holds JSON is opened once more), a mapping, or nothing.
    size: (H, W) of the crop, px. A key left out takes the largest shape: `w` and `h` reach to the far edge,
    a circle is centred with r = min(H, W) / 2, `r_inner` is 0. `shape`, `ro`, `ri` and `inner_radius` are
    older spellings of `kind`, `r` and `r_inner`; `ro` without a kind makes an annulus.

    Raises InvalidInput where the text is no JSON object, the kind is unknown, a number is none, a size is not
    positive, or the geometry reaches more than one pixel outside the crop.
    """
    fields = _fields(raw)
    if not fields:
        return None
    height, width = size
    match _kind(fields):
        case "rect":
            return _rect(fields, height, width)
        case "circle":
            cx, cy, r = _disc(fields, height, width)
            return Circle(cx, cy, r)
        case "annulus":
            cx, cy, r = _disc(fields, height, width)
            r_inner = _number(fields, _INNER, 0.0)
            if not 0 <= r_inner < r:
                raise InvalidInput(
                    f"shape: 'r_inner' is {r_inner:g}; give 0 <= r_inner < r, where r is {r:g}"
                )
            return Annulus(cx, cy, r, r_inner)
        case kind:
            raise InvalidInput(f"shape: 'kind' is {_shown(kind)}; give 'rect', 'circle' or 'annulus'")


def _fields(raw: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    value: Any = raw
    for _ in range(2):
        if isinstance(value, str):
            value = _decoded(value) if value.strip() else None
    if value is None or isinstance(value, Mapping):
        return value
    raise InvalidInput('shape: must be one JSON object; send {"kind": "rect", ...} or leave it out')


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    # A nesting bomb ends in RecursionError, a digit bomb in ValueError.
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            'shape: is not valid JSON; send an object such as {"kind": "rect", "x": 0, "y": 0, ...}'
        ) from error


def _kind(fields: Mapping[str, Any]) -> str:
    for key in ("kind", "shape"):
        if key in fields:
            kind = fields[key]
            if not isinstance(kind, str):
                raise InvalidInput(f"shape: '{key}' must be text; give 'rect', 'circle' or 'annulus'")
            return kind.strip().lower()
    return "annulus" if "ro" in fields else "rect"


def _rect(fields: Mapping[str, Any], height: int, width: int) -> Rect:
    x = _number(fields, ("x",), 0.0)
    y = _number(fields, ("y",), 0.0)
    # A side left out ends at the far edge; the position alone is then to blame for a shape outside.
    w = _positive(fields, ("w",), max(width - x, 1.0))
    h = _positive(fields, ("h",), max(height - y, 1.0))
    _within("x", x, x + w, "w", width)
    _within("y", y, y + h, "h", height)
    return Rect(x, y, w, h)


def _disc(fields: Mapping[str, Any], height: int, width: int) -> tuple[float, float, float]:
    cx = _number(fields, ("cx",), width / 2)
    cy = _number(fields, ("cy",), height / 2)
    r = _positive(fields, _OUTER, min(height, width) / 2)
    _within("cx", cx - r, cx + r, "r", width)
    _within("cy", cy - r, cy + r, "r", height)
    return cx, cy, r


def _within(position: str, low: float, high: float, extent: str, limit: int) -> None:
    if low < -MARGIN_PX or high > limit + MARGIN_PX:
        raise InvalidInput(
            f"shape: '{position}' and '{extent}' reach from {low:g} to {high:g}; "
            f"keep them inside the crop, 0 to {limit} px"
        )


def _positive(fields: Mapping[str, Any], names: tuple[str, ...], default: float) -> float:
    value = _number(fields, names, default)
    if value <= 0:
        raise InvalidInput(f"shape: '{names[0]}' is {value:g}; give a number above 0")
    return value


def _number(fields: Mapping[str, Any], names: tuple[str, ...], default: float) -> float:
    given = {name: _finite(name, fields[name]) for name in names if name in fields}
    if len(set(given.values())) > 1:
        listed = " and ".join(f"'{name}'" for name in given)
        raise InvalidInput(
            f"shape: {listed} are one radius under several names and differ; give '{names[0]}' alone"
        )
    return next(iter(given.values()), default)


def _finite(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InvalidInput(f"shape: '{name}' is {_shown(value)}; give a finite number of pixels")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    return "too large" if isinstance(value, int) and not isinstance(value, bool) else f"{value!r:.40}"
