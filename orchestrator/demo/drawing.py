"""Photographs of the demo's part: drifting pose and light, sensor noise, a defect of known contrast.

Pure: a seed gives the same pixels on every call, whatever the number of threads, so the same generator serves
as a golden set. Knows no files and no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.demo import defects
from orchestrator.demo.defects import DefectKind
from orchestrator.demo.ring import (
    HOLE_COUNT,
    INNER_RADIUS,
    OUTER_RADIUS,
    Field,
    Frame,
    Lighting,
    Pose,
    face_coverage,
    fall_off,
    hole_area,
    paint_ring,
)
from orchestrator.domain.arrays import ImageArray, MaskArray
from orchestrator.errors import InvalidInput

NOISE_SIGMA = 3.0
"""Standard deviation of the sensor's noise, grey levels, in each channel."""

LEAST_CONTRAST, MOST_CONTRAST = 2.0, 16.0
"""The range of contrasts in a drawn set, in standard deviations of the noise."""

SIZE = (360, 360)
_LEAST_SIDE = 64
_MOST_SHIFT, _MOST_GROWTH = 0.018, 0.015
# Most of a sensor's noise is in brightness once a colour filter array is interpolated; the rest is in colour.
_BRIGHTNESS_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Part:
    """One drawn photograph.

    image: (H, W, 3) uint8 RGB. mask: (H, W) bool, every pixel the defect changes. kind: None for a good part.
    contrast_to_noise: root mean square change inside the mask, before noise, over NOISE_SIGMA; 0 for a good
    part.
    """

    image: ImageArray
    mask: MaskArray
    kind: DefectKind | None
    contrast_to_noise: float


@dataclass(frozen=True, slots=True)
class DemoSet:
    """Drawn photographs to fit on, to calibrate with, and with defects."""

    good: tuple[Part, ...]
    good_test: tuple[Part, ...]
    bad: tuple[Part, ...]


def draw_part(
    seed: int, *, size: tuple[int, int] = SIZE, defect: DefectKind | None = None, contrast: float = 8.0
) -> Part:
    """Draw one part; the same seed with and without a defect is the same photograph but for the defect.

    size: (H, W) px, at least 64 each. contrast: the change's root mean square over NOISE_SIGMA, > 0; where
    bright metal clips, the recorded one is lower. A missing hole's contrast is what it is, and large:
    `contrast` is unused.

    Raises InvalidInput where a value is out of range.
    """
    if min(size) < _LEAST_SIDE:
        raise InvalidInput(
            f"size {size} is too small to draw on; both sides must be at least {_LEAST_SIDE} px"
        )
    if not (np.isfinite(contrast) and contrast > 0):
        raise InvalidInput(
            f"contrast {contrast} must be a number above 0, in standard deviations of the noise"
        )
    if seed < 0:
        raise InvalidInput(f"seed {seed} must be 0 or more")
    pose, lighting = _drift(_stream(seed, 0))
    frame = Frame.of(size, pose)
    light = fall_off(size, lighting)
    sound = paint_ring(frame, lighting, _stream(seed, 1)) * light
    noise = _noise(size, _stream(seed, 2))
    rng = _stream(seed, 3)

    match defect:
        case None:
            return Part(_expose(sound, noise), np.zeros(size, dtype=np.bool_), None, 0.0)
        case DefectKind.MISSING_HOLE:
            hole = int(rng.integers(HOLE_COUNT))
            broken = paint_ring(frame, lighting, _stream(seed, 1), undrilled=hole) * light
            mask = hole_area(frame, hole)
        case _:
            broken, mask = _blemished(
                sound, frame, light, lighting.direction - pose.angle, defect, contrast, rng
            )
    change = (np.clip(broken, 0, 255) - np.clip(sound, 0, 255))[mask]
    return Part(_expose(broken, noise), mask, defect, float(np.sqrt(np.mean(change**2))) / NOISE_SIGMA)


def draw_set(
    seed: int, *, good: int = 40, good_test: int = 20, bad: int = 24, size: tuple[int, int] = SIZE
) -> DemoSet:
    """Draw a whole set; asking for more of one group changes none of the photographs it had.

    The kinds of defect take turns, and each kind's contrast runs geometrically over
    LEAST_CONTRAST..MOST_CONTRAST.

    Raises InvalidInput where a count is negative or the size is too small.
    """
    for name, count in (("good", good), ("good_test", good_test), ("bad", bad)):
        if count < 0:
            raise InvalidInput(f"{name} {count} must be 0 or more")
    kinds = tuple(DefectKind)
    steps = max(1, -(-bad // len(kinds)) - 1)
    ratio = MOST_CONTRAST / LEAST_CONTRAST
    return DemoSet(
        good=tuple(draw_part(s, size=size) for s in _seeds(seed, 0, good)),
        good_test=tuple(draw_part(s, size=size) for s in _seeds(seed, 1, good_test)),
        bad=tuple(
            draw_part(
                s,
                size=size,
                defect=kinds[i % len(kinds)],
                contrast=LEAST_CONTRAST * ratio ** (i // len(kinds) / steps),
            )
            for i, s in enumerate(_seeds(seed, 2, bad))
        ),
    )


def part_roi(size: tuple[int, int] = SIZE) -> dict[str, str | float]:
    """Give the annulus, in photograph px, that holds the part wherever it drifts, and little of the mat."""
    side = min(size)
    reach = _MOST_SHIFT * 2**0.5
    return {
        "kind": "annulus",
        "cx": size[1] / 2,
        "cy": size[0] / 2,
        "r": round(side * (OUTER_RADIUS * (1 + _MOST_GROWTH) + reach), 1),
        "r_inner": round(side * (INNER_RADIUS * (1 - _MOST_GROWTH) - reach), 1),
    }


def _blemished(
    sound: Field,
    frame: Frame,
    light: Field,
    direction: float,
    kind: DefectKind,
    contrast: float,
    rng: np.random.Generator,
) -> tuple[Field, MaskArray]:
    match kind:
        case DefectKind.SCRATCH:
            blemish = defects.scratch(frame, rng)
        case DefectKind.DENT:
            blemish = defects.dent(frame, direction, rng)
        case _:
            blemish = defects.stain(frame, rng)
    mask: MaskArray = blemish.support & (face_coverage(frame) > 0.5)
    change = np.where(mask[..., None], blemish.profile * light, 0.0)
    strength = float(np.sqrt(np.mean(change[mask] ** 2)))
    return sound + change * (contrast * NOISE_SIGMA / strength), mask


def _drift(rng: np.random.Generator) -> tuple[Pose, Lighting]:
    """Draw what changes from part to part on a line: where it lies, and how the lamp burns."""
    pose = Pose(
        shift=(float(rng.uniform(-_MOST_SHIFT, _MOST_SHIFT)), float(rng.uniform(-_MOST_SHIFT, _MOST_SHIFT))),
        angle=float(np.radians(rng.uniform(-5, 5))),
        scale=float(rng.uniform(1 - _MOST_GROWTH, 1 + _MOST_GROWTH)),
    )
    lighting = Lighting(
        direction=float(np.radians(-125 + rng.uniform(-4, 4))),
        exposure=float(rng.uniform(0.95, 1.05)),
        gradient=float(rng.uniform(0.10, 0.20)),
        warmth=float(rng.uniform(-0.012, 0.012)),
    )
    return pose, lighting


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Field:
    bright = rng.standard_normal((*size, 1)) * np.sqrt(_BRIGHTNESS_SHARE)
    colour = rng.standard_normal((*size, 3)) * np.sqrt(1 - _BRIGHTNESS_SHARE)
    return np.asarray(NOISE_SIGMA * (bright + colour))


def _expose(scene: Field, noise: Field) -> ImageArray:
    return np.rint(np.clip(np.clip(scene, 0, 255) + noise, 0, 255)).astype(np.uint8)


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])


def _seeds(seed: int, group: int, count: int) -> list[int]:
    return [int(s) for s in np.random.SeedSequence([seed, group]).generate_state(count, np.uint64)]
