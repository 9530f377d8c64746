"""Quality options: what is chosen, what is refused, what is read back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.domain.memory_options import (
    AskedOptions,
    MemoryOptions,
    Tiling,
    choose_options,
    read_options,
)
from orchestrator.errors import BankOptionsUnknown, InvalidInput

TILED = MemoryOptions(augmentation="flips", foreground=True, tiling=Tiling(512, 64), score_rule="max")


def test_nothing_chosen_leaves_the_defaults() -> None:
    assert choose_options(TILED) == TILED
    assert choose_options(MemoryOptions()) == MemoryOptions()


def test_what_is_chosen_stands_above_the_defaults() -> None:
    chosen = choose_options(
        TILED,
        augmentation="none",
        foreground=False,
        tile_px=640,
        tile_overlap_px=128,
        score_rule="percentile",
    )
    assert chosen == MemoryOptions(tiling=Tiling(640, 128))
    assert choose_options(TILED, tile_overlap_px=10).tiling == Tiling(512, 10)
    assert choose_options(TILED, tile_px=0).tiling is None


def test_a_window_without_an_overlap_takes_a_quarter_of_its_side() -> None:
    assert choose_options(TILED, tile_px=400).tiling == Tiling(400, 100)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tile_px": 63}, "tile_px"),
        ({"tile_px": -1}, "tile_px"),
        ({"tile_px": 10**9}, "tile_px"),
        ({"tile_px": 64, "tile_overlap_px": 64}, "tile_overlap_px"),
        ({"tile_px": 64, "tile_overlap_px": -1}, "tile_overlap_px"),
        ({"tile_overlap_px": 5}, "tile_px too"),
    ],
)
def test_windows_that_cannot_be_laid_are_refused_by_name(given: dict[str, int], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        choose_options(MemoryOptions(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [MemoryOptions(), TILED])
def test_stored_options_are_read_back(options: MemoryOptions) -> None:
    assert read_options(asdict(options)) == options


def test_a_bank_from_before_there_were_options_has_the_plain_ones() -> None:
    assert read_options({}) == MemoryOptions()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"augmentation": "shear"},
        {"score_rule": "median"},
        {"foreground": "yes"},
        {"tiling": {"window_px": 5, "overlap_px": 0}},
        {"tiling": {"window": 512}},
        {"tiling": 512},
        {"sharpening": 3},
    ],
)
def test_options_of_another_release_are_named_with_the_remedy(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(BankOptionsUnknown, match=rf"{name}.*fit_ok"):
        read_options({**asdict(MemoryOptions()), **change})


def test_only_what_is_asked_for_can_contradict_a_bank() -> None:
    bank = MemoryOptions(tiling=Tiling(512, 64), score_rule="max")
    for asked in (
        AskedOptions(),
        AskedOptions(score_rule="max", foreground=False),
        AskedOptions(tile_px=512),
    ):
        assert asked.against(bank) == ()
    assert AskedOptions("flips", tile_px=0, tile_overlap_px=64).against(bank) == ("augmentation", "tile_px")
    assert AskedOptions(foreground=True, tile_overlap_px=128).against(bank) == (
        "foreground",
        "tile_overlap_px",
    )
    assert AskedOptions(tile_px=0, tile_overlap_px=0).against(MemoryOptions()) == ()
    assert AskedOptions(tile_px=64).against(MemoryOptions()) == ("tile_px",)
