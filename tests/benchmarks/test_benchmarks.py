"""The benchmarks run and their rows hold what later readers rely on; no figure is judged here."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from orchestrator.demo.metrics import image_auroc
from orchestrator.patchcore.score_rules import reweighted_score
from orchestrator.services.folds import build_memory
from orchestrator.services.score import patch_distances
from tests.benchmarks import (
    anomalib_scoring,
    calibration,
    coreset,
    drift,
    incremental,
    naive,
    overhead,
    quality,
    search,
)
from tests.benchmarks.paired import auroc_differences, interval
from tests.benchmarks.quality_case import QualityCase
from tests.benchmarks.quality_evaluation import SCORING
from tests.benchmarks.quality_subjects import synthetic_subject
from tests.benchmarks.quality_table import draw, read_rows
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


def test_drift_rows_stand_beside_their_bars(plan: Plan) -> None:
    rows = {row.case: row for row in drift.run(plan, streams=20, parts=200, shifted=5, requests=8, rounds=1)}
    false = rows["false alarms"]
    assert false.theirs == pytest.approx(0.01 + 3 * (0.01 * 0.99 / 20) ** 0.5)
    assert 0 <= false.ours <= 1
    for after in drift.SHIFTS_AFTER:
        delay = rows[f"delay, shift after {after}"]
        assert (delay.unit, delay.theirs, delay.n, delay.ours >= 1) == ("parts", 100, after, True)
    assert rows["/infer, counting"].peer == "not counting"
    assert rows["/infer, counting"].ours > 0


def test_coreset_is_measured_against_a_bare_product_and_the_naive_loop(plan: Plan) -> None:
    # No photographs and no peer: what needs neither.
    measured = coreset.run(plan, n=600, huge=2000, bank=1000, added=300, peer=False)
    rows = {row.case: row for row in measured}
    assert rows["synthetic 600 → 1%: rows the naive loop lacks"].ours == 0
    assert rows["synthetic 600 → 10%: radius"].ours < rows["synthetic 600 → 1%: radius"].ours
    timed = rows["synthetic 600 → 10%"]
    assert timed.floor is not None
    assert timed.floor_ratio == pytest.approx(timed.ours / timed.floor)
    assert (timed.n, timed.d, timed.k, timed.tokens, timed.peer) == (600, 384, 60, "synthetic", None)
    assert rows["synthetic 300 rows onto a bank of 100"].peer == "our coreset of all 1,300"
    assert rows["synthetic 2,000 → 1%: peak RSS"].ours > 1


def test_quality_measures_every_rule_beside_the_peer_and_its_rows_make_a_table(tmp_path: Path) -> None:
    plan = Plan(repository=tmp_path / "repository", triton_home=tmp_path, threads=1, repeats=1)
    rows = quality.run(plan, shots=((1, 0.1), (4, 1.0)), seeds=(0, 1))
    by_case = {QualityCase.parse(row.case): row for row in rows}
    whole = [(c.rule, row) for c, row in by_case.items() if (c.shots, c.set_name) == ("full", "synthetic")]
    assert {rule for rule, _ in whole} == {"percentile", "mean_top1", "max", "reweighted", "map"}
    assert all(row.theirs is not None and row.tokens == "synthetic" for _, row in whole)
    # The defects are drawn to be found.
    assert all(row.ours > 0.9 for _, row in whole if row.better == "higher")
    # One photograph has nothing to be held out from.
    figures = {c.figure for c in by_case if c.shots == "1"}
    assert figures == {"image AUROC", "pixel AUROC", "AUPRO"}
    few = next(row for case, row in by_case.items() if case.shots == "4")
    assert (few.repeats, few.seeds, few.n, few.k) == (2, (0, 1), 480, 480)
    written = tmp_path / "bench" / "quality.json"
    write_json(rows, written)
    table = draw(read_rows(written))
    assert "| synthetic | synthetic | 100.0 (+0.0; +0.0 to +0.0) |" in table
    # Kept scores are the scores.
    again = quality.run(plan, shots=((1, 0.1), (4, 1.0)), seeds=(0, 1))
    assert [row.ours_repeats for row in again] == [row.ours_repeats for row in rows]


def test_the_peer_is_the_reweighted_rule_by_another_way() -> None:
    measured = synthetic_subject(seed=1)
    memory = build_memory(measured.good, 0.05)[0]
    for photograph in (*measured.good_test, *measured.bad):
        found = patch_distances(photograph, SCORING.search(memory))
        nearest = found.distances.ravel(), found.rows.ravel()
        ours = reweighted_score(found.distances, photograph.patches, photograph.queries, found.rows, memory)
        assert ours == pytest.approx(
            anomalib_scoring.pred_score(*nearest, photograph.queries, memory.embeddings), rel=1e-5
        )


def test_a_paired_bootstrap_covers_the_difference_of_independent_sets() -> None:
    # Scores of one law, so that no side is ahead: at 95 % about 1 interval in 20 says that one is.
    misses = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        ours, theirs = (
            [(shared[0] + rng.normal(size=40), shared[1] + rng.normal(size=40))]
            for shared in [(rng.normal(size=40), 1 + rng.normal(size=40))] * 2
        )
        low, high = interval(auroc_differences(ours, theirs, seed=seed))
        misses += not low <= 0 <= high
    assert misses <= 5


def test_a_bootstrap_sees_a_score_that_is_plainly_worse() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(size=60), 2 + rng.normal(size=60)
    blurred = [(good + 2 * rng.normal(size=60), bad + 2 * rng.normal(size=60))]
    differences = auroc_differences(blurred, [(good, bad)], seed=0)
    assert interval(differences).high < 0
    expected = image_auroc(*blurred[0]) - image_auroc(good, bad)
    assert float(differences.mean()) == pytest.approx(expected, abs=0.01)


def test_search_rows_have_their_floor_their_recall_and_their_scratch(tmp_path: Path) -> None:
    plan = Plan(repository=tmp_path, triton_home=tmp_path, threads=1, repeats=1)
    sizes = search.Sizes(queries=64, rows=300, dim=32, banks=(300, 600), large=2000, requests=2, samples=1)
    rows = {row.case: row for row in search.run(plan, sizes)}
    single = rows["1-NN of 300 rows, synthetic"]
    assert single.floor_ratio == pytest.approx(single.ours / single.floor)
    assert (single.n, single.d, single.k, single.tokens) == (300, 32, 1, "synthetic")
    assert single.peer == "faiss IndexFlatL2"
    assert 0.5 < rows["recall@1 through the index, 600 rows"].ours <= 1
    assert rows["scratch of 2 searches at once, 2000 rows"].ours < 64
    assert not any(row.tokens == "real" for row in rows.values())


def test_calibrations_are_held_against_their_promise_and_k_fold_against_one_fit(plan: Plan) -> None:
    rows = calibration.run(plan, simulations=40, sizes=(5,), pool=60, fresh=20, repetitions=3, kfold_images=6)
    assert [row.n for row in rows] == [10, 30, 60, 100, 300, 5, 5, 6, 6]
    assert all(0 <= row.ours <= 1 for row in rows if row.unit == "share")
    alone, served = rows[-2:]
    assert (alone.peer, alone.tokens, served.threads) == ("one fit", "synthetic", plan.threads)
    assert alone.theirs is not None
    assert alone.ratio == pytest.approx(alone.ours / alone.theirs)


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


def test_a_peer_that_was_extrapolated_wins_and_loses_nothing() -> None:
    figures = Figures("suite", "case", "s", "lower", samples=1, threads=1, extrapolated=True)
    figures.add(1.0, 2.0)
    row = figures.row()
    assert (row.ratio, row.ahead) == (0.5, None)


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
