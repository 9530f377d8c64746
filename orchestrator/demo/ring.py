"""The demo's part, free of noise: a turned metal ring with bolt holes on a dark mat, lit from one side.

Knows geometry and shading, evaluated analytically at each pixel's centre, so no photograph is ever warped or
resampled. Knows no sensor, no defect but a hole that was never drilled, and no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

from orchestrator.domain.arrays import MaskArray

Field: TypeAlias = NDArray[np.float64]

# Lengths in fractions of the photograph's shorter side.
OUTER_RADIUS = 0.43
INNER_RADIUS = 0.165
BOLT_CIRCLE = 0.315
HOLE_RADIUS = 0.034
COUNTERSINK_RADIUS = 0.046
HOLE_COUNT = 6
_CHAMFER = 0.011
_GROOVE_RADIUS = 0.232
_GROOVE_WIDTH = 0.011
_FEED_PITCH = 0.0125

_METAL = np.array([0.985, 0.995, 1.01])
_MAT = np.array([0.88, 0.97, 1.08])


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the part lies: shift in fractions of the shorter side, angle in radians, scale about 1."""

    shift: tuple[float, float]
    angle: float
    scale: float


@dataclass(frozen=True, slots=True)
class Lighting:
    """How the scene is lit.

    direction: radians, towards the lamp. exposure: factor about 1. gradient: share of brightness that is lost
    from the lamp's side to the other. warmth: share by which red gains over blue.
    """

    direction: float
    exposure: float
    gradient: float
    warmth: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Each pixel's place on the part: x, y, radius, angle, all (H, W), in fractions of the shorter side.

    bearing: angle in the photograph's own frame, where the lamp stands still. unit: px of the shorter side,
    scale included.
    """

    x: Field
    y: Field
    radius: Field
    angle: Field
    bearing: Field
    unit: float

    @classmethod
    def of(cls, size: tuple[int, int], pose: Pose) -> Frame:
        """Place a part on a photograph of (H, W) px."""
        height, width = size
        side = min(height, width)
        down, right = np.mgrid[0:height, 0:width] + 0.5
        dx = (right - width / 2) / side - pose.shift[0]
        dy = (down - height / 2) / side - pose.shift[1]
        radius = np.hypot(dx, dy) / pose.scale
        bearing = np.arctan2(dy, dx)
        angle = bearing - pose.angle
        return cls(radius * np.cos(angle), radius * np.sin(angle), radius, angle, bearing, side * pose.scale)

    def coverage(self, distance: Field) -> Field:
        """Give the share of each pixel inside an outline, from its signed distance (negative inside)."""
        return np.asarray(np.clip(0.5 - distance * self.unit, 0.0, 1.0))


def hole_centre(index: int) -> tuple[float, float]:
    """Give a bolt hole's centre (x, y) on the part."""
    angle = 2 * np.pi * (index + 0.5) / HOLE_COUNT
    return BOLT_CIRCLE * float(np.cos(angle)), BOLT_CIRCLE * float(np.sin(angle))


def hole_area(frame: Frame, index: int) -> MaskArray:
    """Mark every pixel that a bolt hole, countersink included, touches: (H, W) bool."""
    x, y = hole_centre(index)
    area: MaskArray = frame.coverage(np.hypot(frame.x - x, frame.y - y) - COUNTERSINK_RADIUS) > 0
    return area


def face_coverage(frame: Frame) -> Field:
    """Give the share of each pixel that shows the turned face, not chamfer, hole or mat: (H, W), 0..1."""
    face = frame.coverage(frame.radius - (OUTER_RADIUS - _CHAMFER))
    face = face * frame.coverage(INNER_RADIUS + _CHAMFER - frame.radius)
    for index in range(HOLE_COUNT):
        x, y = hole_centre(index)
        face = face * frame.coverage(COUNTERSINK_RADIUS - np.hypot(frame.x - x, frame.y - y))
    return face


def paint_ring(
    frame: Frame, lighting: Lighting, rng: np.random.Generator, *, undrilled: int | None = None
) -> Field:
    """Paint one part on its mat: (H, W, 3) float64 RGB, about 0..255, before light falls off and noise.

    undrilled: the hole of this index was never drilled; only the spot drill's mark is left.
    """
    turned = _turned_metal(frame, lighting, rng)
    mat = _mat(frame, lighting, rng)
    towards = np.cos(frame.bearing - lighting.direction)

    metal = _groove(frame, turned, towards)
    land = frame.coverage(frame.radius - (OUTER_RADIUS - _CHAMFER))
    metal = metal * land + (128 + 84 * towards) * (1 - land)
    land = frame.coverage(INNER_RADIUS + _CHAMFER - frame.radius)
    metal = metal * land + (122 - 84 * towards) * (1 - land)

    ring = frame.coverage(frame.radius - OUTER_RADIUS) * frame.coverage(INNER_RADIUS - frame.radius)
    picture = mat * (1 - ring[..., None]) + metal[..., None] * _METAL * ring[..., None]
    for index in range(HOLE_COUNT):
        if index == undrilled:
            _spot_mark(frame, picture, index, lighting)
        else:
            _drill(frame, picture, index, lighting)
    return np.asarray(picture)


def fall_off(size: tuple[int, int], lighting: Lighting) -> Field:
    """Give the light that reaches each pixel: (H, W, 3), factors about 1."""
    height, width = size
    down, right = np.mgrid[0:height, 0:width] + 0.5
    x, y = right / width - 0.5, down / height - 0.5
    along = x * np.cos(lighting.direction) + y * np.sin(lighting.direction)
    vignette = 1.0 - 0.22 * (x * x + y * y)
    colour = np.array([1 + lighting.warmth, 1.0, 1 - lighting.warmth])
    return np.asarray((lighting.exposure * (1 + lighting.gradient * along) * vignette)[..., None] * colour)


def _turned_metal(frame: Frame, lighting: Lighting, rng: np.random.Generator) -> Field:
    """Shade the face: fine grooves around the axis, streaks along them, and the lathe's bow-tie highlight."""
    step = 1.0 / (frame.unit * 1.25)
    rows = int(0.5 / step) + 2
    columns = 720
    depth = frame.radius / step

    grooves = _standardised(gaussian_filter1d(rng.standard_normal(rows + 8), 0.9))
    fine = _standardised(gaussian_filter(rng.standard_normal((rows + 8, columns)), (0.7, 7), mode="wrap"))
    long = _standardised(gaussian_filter(rng.standard_normal((rows + 8, columns)), (1.6, 45), mode="wrap"))
    turn = np.mod(frame.angle / (2 * np.pi), 1.0)
    at = np.stack([np.minimum(depth, rows + 6.0), turn * columns])
    streaks = np.concatenate([3.4 * fine + 3.0 * long, (3.4 * fine + 3.0 * long)[:, :1]], axis=1)
    texture = map_coordinates(streaks, at, order=1, mode="nearest")
    texture += 4.5 * np.interp(depth, np.arange(rows + 8), grooves)
    texture += 3.0 * np.sin(2 * np.pi * (frame.radius / _FEED_PITCH - turn))

    bow = (0.5 + 0.5 * np.cos(2 * (frame.bearing - lighting.direction))) ** 2.5
    return np.asarray(118 + 62 * bow + texture * (0.65 + 0.75 * bow))


def _mat(frame: Frame, lighting: Lighting, rng: np.random.Generator) -> Field:
    """Paint the rubber mat below, in the part's soft shadow on the side away from the lamp."""
    shape = frame.radius.shape
    grain = 2.2 * _standardised(gaussian_filter(rng.standard_normal(shape), 0.9))
    grain += 1.5 * _standardised(gaussian_filter(rng.standard_normal(shape), 5.0))
    away = 0.022
    sx = frame.radius * np.cos(frame.bearing) + away * np.cos(lighting.direction)
    sy = frame.radius * np.sin(frame.bearing) + away * np.sin(lighting.direction)
    reach = np.hypot(sx, sy)
    inside = np.minimum(OUTER_RADIUS - reach, reach - INNER_RADIUS)
    shadow = 1 / (1 + np.exp(-inside / 0.008))
    return np.asarray((46 + grain)[..., None] * _MAT * (1 - 0.62 * shadow)[..., None])


def _groove(frame: Frame, metal: Field, towards: Field) -> Field:
    """Cut the recess between the two lands: one wall lit, the other dark."""
    place = (frame.radius - _GROOVE_RADIUS) / _GROOVE_WIDTH
    depth = np.exp(-0.5 * (place / 0.45) ** 2)
    return np.asarray(metal * (1 - 0.42 * depth) + 95 * place * depth * towards)


def _drill(frame: Frame, picture: Field, index: int, lighting: Lighting) -> None:
    near, distance, towards = _around_hole(frame, index, lighting)
    wall = np.clip((distance / HOLE_RADIUS - 0.62) / 0.38, 0, 1) ** 2
    _lay(picture, near, frame.coverage(distance - COUNTERSINK_RADIUS), 118 - 78 * towards)
    _lay(picture, near, frame.coverage(distance - HOLE_RADIUS), 20 + 52 * wall * np.clip(-towards, 0, 1))


def _spot_mark(frame: Frame, picture: Field, index: int, lighting: Lighting) -> None:
    near, distance, towards = _around_hole(frame, index, lighting)
    _lay(picture, near, frame.coverage(distance - 0.011), 92 - 70 * towards)


def _around_hole(frame: Frame, index: int, lighting: Lighting) -> tuple[MaskArray, Field, Field]:
    """Give the pixels a hole touches and, for each, the distance to its centre and how it faces the lamp."""
    near = hole_area(frame, index)
    x, y = hole_centre(index)
    dx, dy = frame.x[near] - x, frame.y[near] - y
    turn = (frame.bearing - frame.angle)[near]
    return near, np.hypot(dx, dy), np.cos(np.arctan2(dy, dx) + turn - lighting.direction)


def _lay(picture: Field, near: MaskArray, cover: Field, grey: Field) -> None:
    picture[near] = picture[near] * (1 - cover)[:, None] + (cover * grey)[:, None] * _METAL


def _standardised(values: Field) -> Field:
    return np.asarray((values - values.mean()) / values.std())
