"""Photographs in windows and in views, through an extractor whose tokens say what each patch shows."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from orchestrator.domain.arrays import HalfArray, ImageArray
from orchestrator.domain.memory_options import Augmentation, MemoryOptions, Tiling
from orchestrator.domain.tiles import TiledFrame
from orchestrator.errors import InvalidInput
from orchestrator.features.base import CallContext
from orchestrator.features.preprocess import ImageLimits
from orchestrator.services.embed import Embedded, Embedder, Photograph, check_one_grid
from orchestrator.services.pool import NumericsPool
from tests.fakes import PATCH_MEANS, PatchMeanExtractor
from tests.pictures import png

LIMITS = ImageLimits(1 << 24, 1 << 24)


def embed(
    crops: list[ImageArray], options: MemoryOptions, shape: Any = None, *, for_bank: bool = True
) -> tuple[list[Embedded], list[int]]:
    async def run() -> tuple[list[Embedded], list[int]]:
        extractor, pool = PatchMeanExtractor(), NumericsPool(1)
        try:
            embedder = Embedder(extractor, pool, LIMITS, 8)
            photographs = [Photograph(png(crop), f"{i}.png", shape) for i, crop in enumerate(crops)]
            context = CallContext("test", 10)
            done = await embedder.embed(photographs, PATCH_MEANS, context, options=options, for_bank=for_bank)
            return done, extractor.calls
        finally:
            pool.close()

    return asyncio.run(run())


def noise(*size: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def token_of(patch: ImageArray) -> HalfArray:
    colour = np.append(patch.reshape(-1, 3).mean(axis=0), 64.0)
    token: HalfArray = (colour / np.linalg.norm(colour)).astype(np.float16)
    return token


@pytest.mark.parametrize("augmentation", ["none", "flips", "rotations", "rotations_flips"])
@pytest.mark.parametrize("size", [(112, 112), (70, 140), (141, 70)])
@pytest.mark.parametrize("tiling", [None, Tiling(64, 16)])
def test_every_bank_row_shows_the_patch_of_the_original_that_it_names(
    augmentation: Augmentation, size: tuple[int, int], tiling: Tiling | None
) -> None:
    roi = {"kind": "circle", "cx": size[1] / 3, "cy": size[0] / 2, "r": 22}
    (one,), _ = embed([noise(*size)], MemoryOptions(augmentation, tiling=tiling), roi)
    copies = {"none": 1, "flips": 3, "rotations": 4, "rotations_flips": 8}[augmentation]
    assert len(one.bank_rows) == copies * one.patches.sum()
    assert 0 < one.patches.sum() < one.patches.size
    np.testing.assert_array_equal(one.bank_rows, one.tokens[one.bank_patches])
    np.testing.assert_array_equal(np.unique(one.bank_patches), np.flatnonzero(one.patches))


def test_views_are_computed_for_a_bank_alone() -> None:
    crops = [noise(112, 112, seed=i) for i in range(3)]
    with_views, calls = embed(crops, MemoryOptions("flips"))
    assert sum(calls) == 9
    without, calls = embed(crops, MemoryOptions("flips"), for_bank=False)
    assert sum(calls) == 3
    assert without[0].views is None
    for a, b in zip(with_views, without, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)


def test_the_tokens_of_a_tiled_crop_show_what_their_spans_cover() -> None:
    crop = noise(250, 330)
    (one,), calls = embed([crop], MemoryOptions(tiling=Tiling(112, 30)))
    frame = one.box
    assert isinstance(frame, TiledFrame)
    # All windows of a photograph are one call.
    assert calls == [len(frame.rows.starts) * len(frame.columns.starts)]
    rows, columns = frame.patch_spans(frame.grid)
    tokens = one.tokens.reshape(*frame.grid, 4)
    for r, (top, bottom) in enumerate(rows.astype(int)):
        for c, (left, right) in enumerate(columns.astype(int)):
            np.testing.assert_array_equal(tokens[r, c], token_of(crop[top:bottom, left:right]))


def test_photographs_of_many_windows_share_no_call_beyond_its_limit() -> None:
    crops = [noise(500, 500, seed=i) for i in range(5)]
    done, calls = embed(crops, MemoryOptions(tiling=Tiling(100, 0)))
    assert calls == [25] * 5
    assert [d.sha256 for d in done] == [d.sha256 for c in crops for d in embed([c], MemoryOptions())[0]]


def test_crops_in_windows_must_have_one_size_and_small_ones_need_not() -> None:
    def check(*sizes: tuple[int, int]) -> None:
        done, _ = embed([noise(*size) for size in sizes], MemoryOptions(tiling=Tiling(100, 0)))
        check_one_grid([Photograph(b"", f"{i}.png") for i in range(len(sizes))], done)

    check((90, 90), (50, 100))
    check((120, 90), (120, 90))
    with pytest.raises(InvalidInput, match=r"1\.png: is 91 x 120 px, but 0\.png is 90 x 120"):
        check((120, 90), (120, 91))
    with pytest.raises(InvalidInput, match=r"1\.png.*tile_px=0"):
        check((90, 90), (120, 90))
