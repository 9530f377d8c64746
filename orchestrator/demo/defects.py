"""What goes wrong with the ring's face: scratches, dents and stains, as signed profiles with compact support.

Knows shapes in the part's own frame; knows neither noise nor contrast, which `drawing` gives them. A missing
hole is no change laid on a face but another part, so `ring` paints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from orchestrator.demo.ring import (
    COUNTERSINK_RADIUS,
    HOLE_COUNT,
    INNER_RADIUS,
    OUTER_RADIUS,
    Field,
    Frame,
    hole_centre,
)
from orchestrator.domain.arrays import MaskArray


class DefectKind(StrEnum):
    """The kinds of defect the demo draws."""

    SCRATCH = "scratch"
    DENT = "dent"
    STAIN = "stain"
    MISSING_HOLE = "missing_hole"


@dataclass(frozen=True, slots=True)
class Blemish:
    """One change to the face, at any scale of brightness.

    profile: (H, W, 3) float64, signed, exactly 0 outside support. support: (H, W) bool.
    """

    profile: Field
    support: MaskArray


def scratch(frame: Frame, rng: np.random.Generator) -> Blemish:
    """Draw a shallow, slightly bent line: a bright burr beside a dark furrow, uneven along its length."""
    xs, ys = _scratch_path(rng)
    width = rng.uniform(0.55, 0.95) * max(1.0, frame.unit / 360) / frame.unit
    wave, phase = rng.uniform(1.5, 4.0), rng.uniform(0, 2 * np.pi)
    reach = 5 * width
    near = (frame.x > xs.min() - reach) & (frame.x < xs.max() + reach)
    near &= (frame.y > ys.min() - reach) & (frame.y < ys.max() + reach)
    px, py = frame.x[near], frame.y[near]
    nearest = np.full(px.shape, np.inf)
    side, along = np.zeros_like(nearest), np.zeros_like(nearest)
    for k in range(len(xs) - 1):
        ex, ey = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
        length = float(np.hypot(ex, ey))
        dx, dy = px - xs[k], py - ys[k]
        t = np.clip((dx * ex + dy * ey) / length**2, 0, 1)
        distance = np.hypot(dx - t * ex, dy - t * ey)
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        side = np.where(closer, (ex * dy - ey * dx) / length, side)
        along = np.where(closer, (k + t) / (len(xs) - 1), along)
    depth = np.sin(np.pi * along) ** 0.35 * (0.75 + 0.25 * np.sin(2 * np.pi * wave * along + phase))
    burr = np.exp(-0.5 * (nearest / width) ** 2)
    furrow = np.exp(-0.5 * ((side - 1.9 * width) / width) ** 2) * (nearest < 4 * width)
    profile = np.zeros(frame.x.shape)
    profile[near] = depth * (burr - 0.5 * furrow)
    return _blemish(profile, np.abs(profile) > 0.08, (1.0, 1.0, 1.0))


def dent(frame: Frame, light: float, rng: np.random.Generator) -> Blemish:
    """Draw a shallow, roughly round hollow: dark towards the lamp, bright on the far wall.

    light: radians, the lamp's direction in the part's frame.
    """
    radii = rng.uniform(0.017, 0.036) * np.array([1.0, rng.uniform(0.65, 1.0)])
    x, y = _place(rng, clearance=float(radii.max()) + 0.006)
    turn = rng.uniform(0, np.pi)
    dx, dy = frame.x - x, frame.y - y
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / radii[0]
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / radii[1]
    bump = np.clip(1 - u * u - v * v, 0, None)
    slope = u * np.cos(light - turn) + v * np.sin(light - turn)
    # A hollow also darkens as a whole, so its middle, where the slope is level, changes too.
    return _blemish(-bump * (slope + 0.22) * 2.2, bump > 0, (1.0, 1.0, 1.0))


def stain(frame: Frame, rng: np.random.Generator) -> Blemish:
    """Draw a dried, brownish drop of coolant: an uneven blot with a darker rim."""
    radius = rng.uniform(0.02, 0.046)
    x, y = _place(rng, clearance=radius * 0.8)
    dx, dy = frame.x - x, frame.y - y
    angle = np.arctan2(dy, dx)
    outline = np.ones_like(angle)
    for k in range(2, 7):
        outline += rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    rho = np.hypot(dx, dy) / (radius * np.clip(outline, 0.35, None))
    soft = max(0.12, 1.5 / (radius * frame.unit))
    body = np.clip((1 - rho) / soft, 0, 1)
    rim = np.exp(-0.5 * ((rho - 0.86) / 0.09) ** 2)
    mottle = np.ones_like(rho)
    for _ in range(4):
        wave = rng.normal(0, 0.7 / radius, 2)
        mottle += 0.16 * np.sin(wave[0] * dx + wave[1] * dy + rng.uniform(0, 2 * np.pi))
    return _blemish(-body * (0.75 * mottle + 0.55 * rim), body > 0, (0.78, 0.98, 1.24))


def _blemish(profile: Field, support: MaskArray, tint: tuple[float, float, float]) -> Blemish:
    return Blemish((np.where(support, profile, 0.0))[..., None] * np.array(tint), support)


def _is_face(x: Field, y: Field, clearance: float) -> MaskArray:
    radius = np.hypot(x, y)
    free = (radius > INNER_RADIUS + clearance + 0.012) & (radius < OUTER_RADIUS - clearance - 0.012)
    for index in range(HOLE_COUNT):
        hx, hy = hole_centre(index)
        free &= np.hypot(x - hx, y - hy) > COUNTERSINK_RADIUS + clearance
    return free


def _place(rng: np.random.Generator, *, clearance: float) -> tuple[float, float]:
    """Pick a spot of the face that is `clearance` away from every edge; there is always one below 0.06."""
    while True:
        x, y = rng.uniform(-OUTER_RADIUS, OUTER_RADIUS, 2)
        if _is_face(np.array(x), np.array(y), clearance):
            return float(x), float(y)


def _scratch_path(rng: np.random.Generator) -> tuple[Field, Field]:
    """Pick a bent line of which at least nine tenths lie on the face."""
    t = np.linspace(-0.5, 0.5, 17)
    while True:
        x, y = rng.uniform(-OUTER_RADIUS, OUTER_RADIUS, 2)
        heading, length, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.26), rng.normal(0, 0.5)
        turn = heading + bend * t
        xs = x + np.concatenate([[0.0], np.cumsum(np.cos(turn[1:]))]) * length / 16
        ys = y + np.concatenate([[0.0], np.cumsum(np.sin(turn[1:]))]) * length / 16
        if np.mean(_is_face(xs, ys, 0.004)) >= 0.9:
            return xs, ys
