"""What quality is measured on: sets of embedded photographs with the masks of their defects.

Masks and maps are compared at a size of their own: a 32 × 32 grid of tokens holds no more detail, and AUPRO sorts every
pixel of every photograph.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.domain.arrays import MaskArray
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.services.embed import Embedded
from tests.benchmarks.photographs import real_backbone, real_data, real_set
from tests.benchmarks.servers import Plan

LONGEST_SIDE = 128
PLAIN_OPTIONS = MemoryOptions()
SYNTHETIC = "synthetic"
_SYNTHETIC_GRID, _SYNTHETIC_DIM = (10, 12), 16


@dataclass(frozen=True, slots=True)
class Subject:
    """One set, embedded by one backbone.

    fingerprint: of the backbone, empty where tokens are drawn. masks: of each bad photograph, (h, w) bool at its
    `judged_size`; None where no defect is drawn.
    """

    name: str
    backbone: str
    fingerprint: str
    tokens: Literal["real", "synthetic"]
    good: list[Embedded]
    good_test: list[Embedded]
    bad: list[Embedded]
    masks: list[MaskArray | None]

    @property
    def has_masks(self) -> bool:
        """Whether pixel figures can be measured."""
        return any(mask is not None for mask in self.masks)


def judged_size(photograph: Embedded) -> tuple[int, int]:
    """Give the size (h, w) at which a photograph's map and mask are compared."""
    height, width = photograph.box.crop
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def subject(plan: Plan, name: str, backbone: str, options: MemoryOptions = PLAIN_OPTIONS) -> Subject:
    """Load a set of real photographs; without any, draw a synthetic one."""
    data = real_data(plan)
    if data is None:
        return synthetic_subject(seed=0)
    loaded = real_set(plan, name, backbone=backbone, options=options)
    masks = [
        photograph.read_mask(judged_size(embedded))
        for photograph, embedded in zip(loaded.bad_photographs, loaded.bad, strict=True)
    ]
    # A mask without a defect says only that nobody drew it.
    defects = [mask if mask is not None and mask.any() else None for mask in masks]
    fingerprint = real_backbone(plan, data, backbone).fingerprint
    return Subject(name, backbone, fingerprint, "real", loaded.good, loaded.good_test, loaded.bad, defects)


def synthetic_subject(*, seed: int, good: int = 6, good_test: int = 5, bad: int = 5) -> Subject:
    """Draw tokens around three materials, laid out alike; a bad photograph has a block of others in it."""
    rng = np.random.default_rng(seed)
    box = Letterbox.fit((70, 84), (140, 168))
    materials = rng.standard_normal((3, _SYNTHETIC_DIM))
    texture = materials[rng.integers(0, len(materials), _SYNTHETIC_GRID)]

    def photograph(corner: tuple[int, int] | None) -> Embedded:
        tokens = texture + 0.2 * rng.standard_normal(texture.shape)
        if corner is not None:
            tokens[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] += rng.standard_normal(
                _SYNTHETIC_DIM
            )
        half = l2_normalise(tokens.reshape(-1, _SYNTHETIC_DIM).astype(np.float32)).astype(np.float16)
        everywhere = np.ones(box.crop, dtype=np.bool_), np.ones(_SYNTHETIC_GRID, dtype=np.bool_)
        return Embedded(half, box, *everywhere, hashlib.sha256(half.tobytes()).hexdigest())

    corners = [(int(rng.integers(0, 7)), int(rng.integers(0, 9))) for _ in range(bad)]
    masks: list[MaskArray | None] = []
    for row, column in corners:
        mask = np.zeros(box.crop, dtype=np.bool_)
        mask[row * 7 : (row + 3) * 7, column * 7 : (column + 3) * 7] = True
        masks.append(mask)
    return Subject(
        SYNTHETIC,
        SYNTHETIC,
        "",
        "synthetic",
        [photograph(None) for _ in range(good)],
        [photograph(None) for _ in range(good_test)],
        [photograph(corner) for corner in corners],
        masks,
    )
