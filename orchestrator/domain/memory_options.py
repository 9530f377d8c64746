"""How a memory bank's features and scores are made: a part of the bank, so that verdicts are made as it was.

A bank keeps the options it was fitted with; a refit takes those of its request, else the deployment's, never the old
bank's. A crop no larger than the window is embedded plainly, whatever the tiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from orchestrator.errors import BankOptionsUnknown, InvalidInput

ScoreRule = Literal["percentile", "mean_top1", "max", "reweighted"]
"""From patch distances to the image score: the wire's percentile of the map, the mean of the top 1 % of the patches,
the maximum patch, or the maximum re-weighted by its neighbourhood. Regions always come from the map."""

Augmentation = Literal["none", "flips", "rotations", "rotations_flips"]
"""What else of a good photograph enters the bank: both mirror images, the quarter turns, or all eight."""

OPTIONS_VERSION = 1
MIN_WINDOW_PX = 64
MAX_WINDOW_PX = 100_000
# The default overlap is a quarter of the window.
_OVERLAP_SHARE = 4


@dataclass(frozen=True, slots=True)
class Tiling:
    """Windows over a large crop. window_px: side, crop px. overlap_px: shared by neighbours, at least.

    Raises InvalidInput where the window is out of range or the overlap not smaller than it.
    """

    window_px: int
    overlap_px: int

    def __post_init__(self) -> None:
        if not MIN_WINDOW_PX <= self.window_px <= MAX_WINDOW_PX:
            raise InvalidInput(
                f"tile_px: {self.window_px} is out of range; send {MIN_WINDOW_PX} to {MAX_WINDOW_PX} px, or 0 for "
                "no tiling."
            )
        if not 0 <= self.overlap_px < self.window_px:
            raise InvalidInput(
                f"tile_overlap_px: {self.overlap_px} is out of range; send 0 to {self.window_px - 1} px, less than "
                f"tile_px={self.window_px}."
            )


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """One choice of every quality option.

    foreground: whether patches of the background, told by the first principal component, count for nothing.
    version: of the rules behind these names; a bank of another version is fitted anew.
    """

    augmentation: Augmentation = "none"
    foreground: bool = False
    tiling: Tiling | None = None
    score_rule: ScoreRule = "percentile"
    version: int = OPTIONS_VERSION


@dataclass(frozen=True, slots=True)
class AskedOptions:
    """The options that a request names, as it names them; None where it leaves one to others. tile_px: 0 for none."""

    augmentation: Augmentation | None = None
    foreground: bool | None = None
    tile_px: int | None = None
    tile_overlap_px: int | None = None
    score_rule: ScoreRule | None = None

    def against(self, options: MemoryOptions) -> tuple[str, ...]:
        """Name those that say otherwise than `options`, in the wire's words."""
        tiling = options.tiling
        held = {
            "augmentation": options.augmentation,
            "foreground": options.foreground,
            "tile_px": tiling.window_px if tiling is not None else 0,
            "tile_overlap_px": tiling.overlap_px if tiling is not None else 0,
            "score_rule": options.score_rule,
        }
        return tuple(name for name, value in held.items() if getattr(self, name) not in (None, value))


def choose_options(
    defaults: MemoryOptions,
    *,
    augmentation: Augmentation | None = None,
    foreground: bool | None = None,
    tile_px: int | None = None,
    tile_overlap_px: int | None = None,
    score_rule: ScoreRule | None = None,
) -> MemoryOptions:
    """Put what is given above the defaults.

    tile_px: 0 switches tiling off. A window given without its overlap takes a quarter of its side.

    Raises InvalidInput.
    """
    return MemoryOptions(
        augmentation=defaults.augmentation if augmentation is None else augmentation,
        foreground=defaults.foreground if foreground is None else foreground,
        tiling=_tiling(defaults.tiling, tile_px, tile_overlap_px),
        score_rule=defaults.score_rule if score_rule is None else score_rule,
    )


def _tiling(default: Tiling | None, window_px: int | None, overlap_px: int | None) -> Tiling | None:
    if window_px is None and overlap_px is None:
        return default
    window = window_px if window_px is not None else (default.window_px if default else 0)
    if window == 0:
        if overlap_px:
            raise InvalidInput("tile_overlap_px: there are no windows to overlap; send tile_px too.")
        return None
    return Tiling(window, window // _OVERLAP_SHARE if overlap_px is None else overlap_px)


def read_options(stored: Mapping[str, Any]) -> MemoryOptions:
    """Read a bank's options as they are stored; one from before there were any has the plain ones.

    Raises BankOptionsUnknown where a name, a value or the version is not one of this release's.
    """
    known = {field.name for field in fields(MemoryOptions)}
    unknown = [name for name in stored if name not in known]
    choices: dict[str, tuple[object, ...]] = {
        "version": (OPTIONS_VERSION,),
        "augmentation": get_args(Augmentation),
        "score_rule": get_args(ScoreRule),
        "foreground": (False, True),
    }
    unknown += [
        f"{name}={stored[name]!r}"
        for name, known_values in choices.items()
        if name in stored and stored[name] not in known_values
    ]
    try:
        tiling = None if stored.get("tiling") is None else Tiling(**stored["tiling"])
    except (TypeError, InvalidInput):
        unknown.append(f"tiling={stored['tiling']!r}")
    if unknown:
        raise BankOptionsUnknown(
            f"this memory was made with options that this release does not know ({', '.join(unknown)[:200]}); "
            "run /fit_ok again, or the release that made it."
        )
    return MemoryOptions(**{**stored, "tiling": tiling})
