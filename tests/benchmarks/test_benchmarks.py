"""The benchmarks run and their rows hold what later readers rely on; no figure is judged here."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from tests.benchmarks import incremental, naive, overhead
from tests.benchmarks.rows import Figures, Row, Shape, write_json
from tests.benchmarks.servers import Plan


@pytest.fixture
def plan(tiny_repository: Path, triton_home: Path) -> Plan:
    """Give a plan that costs little."""
    return Plan(repository=tiny_repository, triton_home=triton_home, threads=1, repeats=1)


def test_overhead_is_the_difference_and_has_its_parts(plan: Plan) -> None:
    rows = {row.case: row for row in overhead.run(plan, requests=5, fit_images=2)}
    assert rows["overhead"].ours == pytest.approx(rows["/infer"].ours - rows["bare Triton call"].ours)
    assert {"decode", "search", "map", "encode", "http", "state", "features"} <= rows.keys()
    assert all(row.repeats == 1 and row.samples == 5 and row.unit == "ms" for row in rows.values())


def test_naive_peer_gives_the_same_scores_and_both_sides_are_timed(plan: Plan) -> None:
    served, fitted = naive.run(plan, backbone="tiny", requests=4, fit_images=2)
    for row in (served, fitted):
        assert row.ours > 0
        assert row.theirs is not None
        assert row.peer == "naive server"
        assert row.ratio == pytest.approx(row.ours / row.theirs)
    assert (served.better, fitted.better) == ("higher", "lower")


def test_additions_and_removals_are_timed_beside_a_selection_anew(plan: Plan) -> None:
    rows = incremental.run(plan, held=6, added=3, grid=(8, 8))
    added, added_radius, removed, removed_radius = rows
    assert (added.n, added.k, removed.n, removed.k) == (3 * 64, 39, 5 * 64, 39)
    assert added.floor_ratio is not None
    for timed in (added, removed):
        assert timed.ratio is not None
        assert (timed.tokens, timed.unit, timed.better) == ("synthetic", "s", "lower")
    for radius in (added_radius, removed_radius):
        assert radius.ratio == pytest.approx(radius.ours / radius.theirs)


def test_ratio_is_the_median_of_paired_ratios() -> None:
    figures = Figures("suite", "case", "s", "lower", samples=1, threads=1)
    for ours, peer in ((1.0, 2.0), (10.0, 40.0), (3.0, 3.0)):
        figures.add(ours, peer)
    row = figures.row()
    assert (row.ours, row.theirs, row.ratio, row.ahead) == (3.0, 3.0, 0.5, True)


def test_times_are_given_in_seconds_too_and_other_units_are_not() -> None:
    timed = Figures(
        "suite", "case", "ms", "lower", samples=1, threads=1, peer="someone", shape=Shape(n=3, d=2)
    )
    timed.add(1500.0, 3000.0, floor=750.0)
    row = timed.row()
    assert (row.ours_s, row.peer_s, row.floor_s, row.floor_ratio) == (1.5, 3.0, 0.75, 2.0)
    assert (row.peer, row.n, row.d, row.k, row.extrapolated) == ("someone", 3, 2, None, False)
    share = Figures("suite", "case", "AUROC", "higher", samples=1, threads=1)
    share.add(0.9)
    assert (share.row().ours_s, share.row().peer) == (None, None)


def test_rows_are_written_with_every_field(tmp_path: Path) -> None:
    figures = Figures("suite", "case", "ms", "lower", samples=1, threads=1)
    figures.add(1.5)
    path = tmp_path / "bench" / "results.json"
    write_json([figures.row()], path)
    (written,) = json.loads(path.read_text())
    assert set(written) == {field.name for field in fields(Row)}
    assert (written["peer"], written["ratio"], written["ahead"]) == (None, None, None)
    assert math.isfinite(written["load"][0])
    assert written["versions"]["python"]
