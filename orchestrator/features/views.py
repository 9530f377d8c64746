"""Mirror images and quarter turns of what the graph sees, and the way back from their tokens.

A view turns the whole canvas, letterbox and all, and its tokens are turned back onto the grid of the original: a
token of a view says the same place of the part as the original's token of that index, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.memory_options import Augmentation
from orchestrator.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class View:
    """A left-right mirror image, or none, then quarter turns counter-clockwise."""

    mirrored: bool
    quarter_turns: int

    def draw(self, canvases: ImageArray) -> ImageArray:
        """Show (B, H, W, 3) canvases so; a copy."""
        seen = canvases[:, :, ::-1] if self.mirrored else canvases
        return np.ascontiguousarray(np.rot90(seen, self.quarter_turns, axes=(1, 2)))

    def restore(self, tokens: HalfArray, grid: tuple[int, int]) -> HalfArray:
        """Put the tokens of drawn canvases, (B, R·C, D), where the original has its own."""
        shown = tokens.reshape(len(tokens), *grid, -1)
        turned = np.rot90(shown, -self.quarter_turns, axes=(1, 2))
        original = turned[:, :, ::-1] if self.mirrored else turned
        return np.ascontiguousarray(original).reshape(tokens.shape)


_MIRRORS = (View(mirrored=True, quarter_turns=0), View(mirrored=True, quarter_turns=2))
_TURNS = tuple(View(mirrored=False, quarter_turns=turns) for turns in (1, 2, 3))
VIEWS: Mapping[Augmentation, tuple[View, ...]] = MappingProxyType(
    {
        "none": (),
        "flips": _MIRRORS,
        "rotations": _TURNS,
        "rotations_flips": (*_TURNS, *(View(mirrored=True, quarter_turns=turns) for turns in range(4))),
    }
)
"""What enters a bank beside the original."""


def check_views(augmentation: Augmentation, spec: BackboneSpec) -> None:
    """Refuse quarter turns of what is not square.

    Raises InvalidInput.
    """
    turns = any(view.quarter_turns % 2 for view in VIEWS[augmentation])
    if turns and (spec.input_size[0] != spec.input_size[1] or spec.grid[0] != spec.grid[1]):
        raise InvalidInput(
            f"augmentation: {augmentation!r} needs a backbone with a square input; '{spec.name}' takes "
            f"{spec.input_size[1]} x {spec.input_size[0]} px. Send flips or none."
        )
