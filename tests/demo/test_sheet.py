"""The contact sheet: it renders whatever it is given, and what it shows can be found in its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchestrator.demo.chart import BAD, GOOD, font, number, shorten
from orchestrator.demo.heat import TRUTH_COLOUR, HeatScale, colours, heat_panel, photograph_panel
from orchestrator.demo.sheet import SheetRow, contact_sheet
from orchestrator.errors import InvalidInput

WRONG = (214, 122, 8)


def row(name: str = "bad/scratch_001.png", **changes: Any) -> SheetRow:
    values: dict[str, Any] = {
        "image": np.full((90, 120, 3), 128, np.uint8),
        "anomaly_map": np.linspace(0, 1, 90 * 120, dtype=np.float32).reshape(90, 120),
        "contours": [[[10, 60], [60, 60], [60, 85], [10, 85]]],
        "score": 0.9,
        "threshold": 0.6,
        "decision": "ng",
        "truth": "bad",
        "mask": None,
    }
    return SheetRow(name=name, **{**values, **changes})


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def count(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((picture == colour).all(axis=2)))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 24])
def test_a_sheet_has_a_sane_size(tmp_path: Path, n: int) -> None:
    path = contact_sheet([row()] * n, tmp_path / "new" / "sheet.png", title="Demo", notes=["a", "b"])
    height, width, _ = pixels(path).shape
    assert 900 <= width <= 2000
    assert 450 <= height <= 2300


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    one = contact_sheet([row()], tmp_path / "1.png", title="Demo")
    other = contact_sheet([row()], tmp_path / "2.png", title="Demo")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "odd",
    [
        {"image": np.zeros((1, 1, 3), np.uint8), "anomaly_map": np.zeros((1, 1), np.float32)},
        {"image": np.zeros((900, 7, 3), np.uint8), "anomaly_map": np.ones((900, 7), np.float32)},
        {"image": np.zeros((2, 1500, 3), np.uint8), "anomaly_map": None, "mask": np.eye(2, 1500) > 0},
        {"anomaly_map": np.full((90, 120), np.nan, np.float32)},
        {"anomaly_map": np.full((90, 120), np.inf, np.float32)},
        {"contours": []},
        {"contours": [[], [[3, 4]], np.array([[[1, 2]], [[5, 6]]], np.int32)]},
        {"score": float("nan"), "threshold": None, "decision": None, "truth": None},
        {"score": -1e12, "threshold": 0.0},
        {"threshold": float("inf")},
        {"mask": np.zeros((90, 120), np.bool_)},
        {"mask": np.ones((90, 120), np.bool_)},
        {"name": "x" * 500 + "\n\t\x00.png"},
        {"name": ""},
        {"name": "検査/部品.png"},
    ],
)
def test_odd_rows_are_drawn_beside_ordinary_ones(tmp_path: Path, odd: dict[str, Any]) -> None:
    alone = pixels(contact_sheet([row(**odd)], tmp_path / "1.png", title="Odd"))
    together = pixels(
        contact_sheet(
            [row(), row(**odd), row(truth="good", decision="ok")], tmp_path / "2.png", title="T" * 300
        )
    )
    assert alone.std() > 5
    assert together.std() > 5


def test_a_wrong_decision_is_framed_and_a_right_one_is_not(tmp_path: Path) -> None:
    right = pixels(contact_sheet([row(truth="bad", decision="ng")], tmp_path / "r.png", title="t"))
    missed = pixels(contact_sheet([row(truth="bad", decision="ok")], tmp_path / "m.png", title="t"))
    rejected = pixels(contact_sheet([row(truth="good", decision="ng")], tmp_path / "f.png", title="t"))
    unknown = pixels(contact_sheet([row(truth=None, decision="ng")], tmp_path / "u.png", title="t"))
    assert count(right, WRONG) == count(unknown, WRONG) == 0
    assert min(count(missed, WRONG), count(rejected, WRONG)) > 3 * 2 * (400 + 250)


def test_the_decision_has_its_colour(tmp_path: Path) -> None:
    # No truth, so neither the histogram nor a mark adds to either colour but their keys.
    ok = pixels(contact_sheet([row(truth=None, decision="ok")], tmp_path / "ok.png", title="t"))
    ng = pixels(contact_sheet([row(truth=None, decision="ng")], tmp_path / "ng.png", title="t"))
    assert count(ok, GOOD) > count(ng, GOOD) + 500
    assert count(ng, BAD) > count(ok, BAD) + 500


def test_the_histogram_shows_the_scores_it_is_given(tmp_path: Path) -> None:
    bare = pixels(contact_sheet([row(truth=None)], tmp_path / "1.png", title="t"))
    shown = pixels(
        contact_sheet(
            [row(truth=None)], tmp_path / "2.png", title="t", ok_scores=[0.1] * 9, ng_scores=[0.8, 0.9]
        )
    )
    assert count(shown, GOOD) > count(bare, GOOD) + 300
    assert count(shown, BAD) > count(bare, BAD) + 100


def test_the_true_defect_is_outlined_without_being_covered() -> None:
    image = np.full((100, 100, 3), 90, np.uint8)
    mask = np.zeros((100, 100), np.bool_)
    mask[50, 20:70] = True
    image[mask] = 255
    panel = photograph_panel(image, mask, 200)
    plain = photograph_panel(image, None, 200)
    assert count(panel, TRUTH_COLOUR) > 80
    assert np.array_equal(panel[99:103, 44:138], plain[99:103, 44:138])


def test_a_defect_of_one_pixel_in_a_large_photograph_is_still_outlined() -> None:
    mask = np.zeros((1500, 1500), np.bool_)
    mask[700, 700] = True
    assert count(photograph_panel(np.zeros((1500, 1500, 3), np.uint8), mask, 200), TRUTH_COLOUR) > 8


def test_equal_distances_have_equal_colours_on_every_card() -> None:
    image = np.full((50, 50, 3), 128, np.uint8)
    calm, wild = np.full((50, 50), 0.5, np.float32), np.full((50, 50), 0.5, np.float32)
    wild[:10] = 9
    scale = HeatScale.of([calm, wild], [0.6])
    one, other = (heat_panel(image, m, [], scale, 100) for m in (calm, wild))
    assert np.array_equal(one[60:], other[60:])
    assert not np.array_equal(one[:10], other[:10])


@pytest.mark.parametrize("thresholds", [[], [0.4], [0.1, 3.0], [0.0], [-1.0]])
def test_the_scale_holds_its_thresholds_and_rises(thresholds: list[float]) -> None:
    rng = np.random.default_rng(0)
    scale = HeatScale.of([rng.random((9, 9), dtype=np.float32)], thresholds)
    places = scale.place([*thresholds, scale.low, scale.high])
    assert scale.low < scale.high
    assert places[-2:].tolist() == [0.0, 1.0]
    assert all(0 <= place <= 0.7 for place in places[:-2])
    assert np.isfinite(HeatScale.of([], thresholds).high)


def test_values_that_are_not_finite_have_a_place() -> None:
    assert HeatScale(0, 1).place([np.nan, np.inf, -np.inf]).tolist() == [0, 1, 0]
    assert colours(np.zeros((2, 3), np.float32)).shape == (2, 3, 3)


def test_long_names_keep_their_start_and_end() -> None:
    cut = shorten("bad/" + "x" * 300 + "_001.png", 200, 17)
    assert font(17).getlength(cut) <= 200
    assert cut.startswith("bad/")
    assert cut.endswith("_001.png")
    assert shorten("a\nb", 200, 17) == "a?b"


def test_scores_are_written_short() -> None:
    assert [number(v) for v in (0.0, 0.123456, 12.3456, 1e9, float("nan"))] == [
        "0",
        "0.1235",
        "12.35",
        "1.00e+09",
        "n/a",
    ]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        contact_sheet([], tmp_path / "x.png", title="t")
    with pytest.raises(InvalidInput, match="grey"):
        contact_sheet([row(name="grey", image=np.zeros((4, 4), np.uint8))], tmp_path / "x.png", title="t")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot be written"):
        contact_sheet([row()], tmp_path / "file" / "x.png", title="t")
