"""The part's foreground: found in the photographs of a fit, kept in every photograph that meets its bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.foreground import FoundForeground, fit_axis, foreground_patches, foreground_pixels
from orchestrator.services.embed import Embedded

LEAST_SHARE, LARGEST_SHARE = 0.05, 0.95
"""Of the counted patches of a fit; outside, the axis tells nothing from nothing."""

LEAST_SEPARATION = 0.8
"""A fit's two sides must stand apart: tokens spread evenly between them would have 3/4."""


def find_foreground(photographs: Sequence[Embedded]) -> FoundForeground:
    """Find the foreground of photographs, at least one, whole."""
    return fit_axis([p.tokens for p in photographs], [p.patches for p in photographs])


def check_foreground(found: FoundForeground) -> None:
    """Refuse an axis that leaves nearly nothing, or nearly everything, or parts what is one.

    Raises InvalidInput.
    """
    sentence = (
        f"{found.share:.0%} of the patches would count as the part, and {found.separation:.0%} of what sets patches "
        f"apart would be between part and background"
    )
    remedy = "Send foreground=false, or a shape around the part."
    if not LEAST_SHARE <= found.share <= LARGEST_SHARE:
        raise InvalidInput(
            f"foreground: {sentence}; it takes {LEAST_SHARE:.0%} to {LARGEST_SHARE:.0%} of the patches. {remedy}"
        )
    if found.separation < LEAST_SEPARATION:
        raise InvalidInput(
            f"foreground: {sentence}; less than {LEAST_SEPARATION:.0%} shows no background of its own. {remedy}"
        )


def check_fold_foreground(found: FoundForeground, whole: ForegroundAxis | None) -> None:
    """Refuse a fold's axis that a fit would be refused, or that takes the background of the whole for the part.

    whole: the axis of all photographs, where it is known. Scores of such a fold would say nothing of the bank.

    Raises InvalidInput.
    """
    remedy = "Fit again with more OK photographs, with foreground=false or with a shape around the part."
    try:
        check_foreground(found)
    except InvalidInput as error:
        raise InvalidInput(
            f"foreground: it is lost where some OK photographs are held out, so no threshold can be chosen. {remedy} "
            f"Without them: {error.message}"
        ) from error
    if whole is not None and float(found.axis.direction @ whole.direction) <= 0:
        raise InvalidInput(
            "foreground: part and background change places where some OK photographs are held out, so no threshold "
            f"can be chosen. {remedy}"
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
