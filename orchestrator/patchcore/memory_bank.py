"""The memory bank: the patch embeddings of good parts, and what every one of them must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from orchestrator.domain.arrays import FloatArray, HalfArray
from orchestrator.errors import InvalidInput

# float16 storage moves a norm by up to 5e-4.
NORM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBank:
    """The coreset of one target, ready to be searched.

    embeddings: (M, D) float32, C-contiguous, rows L2-normalised (a row of zeros is a patch without content).
    grid: (R, C) token grid the rows came from. squared_norms: (M,) float32, computed here.

    Raises InvalidInput where a shape, type, order or norm differs.
    """

    embeddings: FloatArray
    grid: tuple[int, int]
    squared_norms: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = self.embeddings
        if rows.ndim != 2 or 0 in rows.shape:
            raise InvalidInput(f"memory bank: embeddings of shape {rows.shape} are not (M, D) with M, D >= 1")
        if rows.dtype != np.float32 or not rows.flags.c_contiguous:
            raise InvalidInput(f"memory bank: embeddings must be C-contiguous float32, not {rows.dtype}")
        if min(self.grid) < 1:
            raise InvalidInput(f"memory bank: grid {self.grid} must be at least 1 x 1")
        squared = np.einsum("md,md->m", rows, rows)
        # Written so that NaN fails too.
        if not np.all((np.abs(np.sqrt(squared) - 1) <= NORM_TOLERANCE) | (squared == 0)):
            raise InvalidInput("memory bank: every row must be finite and L2-normalised")
        object.__setattr__(self, "squared_norms", squared)


def l2_normalise(embeddings: FloatArray | HalfArray) -> FloatArray:
    """Scale rows to length 1, as C-contiguous float32; a row of zeros stays.

    embeddings: (N, D) float16 or float32. Returns a new array.
    """
    rows: FloatArray = np.array(embeddings, dtype=np.float32, order="C")
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    norms[norms == 0] = 1
    rows /= norms[:, None]
    return rows
