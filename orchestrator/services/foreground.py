"""The part's foreground: found in the photographs of a fit, kept in every photograph that meets its bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.foreground import fit_axis, foreground_patches, foreground_pixels
from orchestrator.services.embed import Embedded

LEAST_SHARE, LARGEST_SHARE = 0.05, 0.95
"""Of the counted patches of a fit; outside, the axis tells nothing from nothing."""


def find_foreground(photographs: Sequence[Embedded]) -> tuple[ForegroundAxis, float]:
    """Fit the axis on photographs, at least one, and give the share of their counted patches that shows the part."""
    return fit_axis([p.tokens for p in photographs], [p.patches for p in photographs])


def check_share(share: float) -> None:
    """Refuse an axis that leaves nearly nothing, or nearly everything.

    Raises InvalidInput.
    """
    if not LEAST_SHARE <= share <= LARGEST_SHARE:
        raise InvalidInput(
            f"foreground: {share:.1%} of the patches would count as the part, not {LEAST_SHARE:.0%} to "
            f"{LARGEST_SHARE:.0%}; the photographs show no background that stands apart. Send foreground=false, or a "
            "shape around the part."
        )


def keep_foreground(photograph: Embedded, axis: ForegroundAxis | None) -> Embedded:
    """Let only the foreground count, in patches and in pixels; None leaves the photograph as it is.

    A photograph in which nothing looks like the part counts as a whole, and says so: an empty or foreign crop must not
    pass for want of patches.
    """
    if axis is None:
        return photograph
    kept = foreground_patches(photograph.tokens, photograph.patches, axis)
    if not kept.any():
        return replace(photograph, has_foreground=False)
    mask = foreground_pixels(photograph.mask, photograph.box, photograph.patches, kept)
    return replace(photograph, patches=kept, mask=mask, has_foreground=True)
