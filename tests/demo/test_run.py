from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.demo.drawing import draw_set
from orchestrator.demo.photographs import PhotographFolder, write_drawn_set
from orchestrator.demo.report import MOST_ROWS, print_report, rows_to_show
from orchestrator.demo.run import RECIPE, SHEET_BAD, SHEET_GOOD, DemoReport, demo_target, pick, run_demo
from orchestrator.runtime import build_runtime
from orchestrator.settings import load_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PhotographFolder:
    drawn = draw_set(7, good=8, good_test=4, bad=4, size=(128, 128))
    return write_drawn_set(drawn, tmp_path_factory.mktemp("photographs") / "my part!")


@pytest.fixture(scope="module")
def report(
    folder: PhotographFolder, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> DemoReport:
    root = tmp_path_factory.mktemp("demo")
    settings = load_settings(data_root=root, model_repository=tiny_repository, backbone="tiny")

    async def work() -> DemoReport:
        runtime = build_runtime(settings)
        runtime.backbones.settle()
        try:
            for _ in range(2):
                # The second time, what the first one stored must not count.
                found = await run_demo(
                    runtime,
                    demo_target("part"),
                    folder,
                    root / "sheet.png",
                    lambda stage, share: None,
                    title="demo",
                )
            return found
        finally:
            await runtime.close()

    return asyncio.run(work())


def test_the_demo_has_a_recipe_of_its_own_and_a_plain_roi() -> None:
    target = demo_target("my part!")
    assert (target.part.recipe_id, target.part.roi_id) == (RECIPE, "my-part")


def test_every_test_photograph_is_judged_and_calibration_saw_good_ones_only(report: DemoReport) -> None:
    assert [j.truth for j in report.judged] == ["good"] * 4 + ["bad"] * 4
    assert report.calibration.samples_ok == 8
    assert report.calibration.samples_ng == 0
    assert report.fit.record.metadata.n_embeddings == 8 * 64


def test_figures_are_those_of_the_judged_photographs(report: DemoReport) -> None:
    good = [j.verdict.score for j in report.judged if j.truth == "good"]
    bad = [j.verdict.score for j in report.judged if j.truth == "bad"]
    pairs = [(g, b) for g in good for b in bad]
    assert report.auroc == pytest.approx(sum(b > g for g, b in pairs) / len(pairs))
    assert report.localisation == sum(bool(j.hit) for j in report.judged) / 4
    missed = sum(b < report.calibration.threshold for b in bad)
    assert report.rates.escape == pytest.approx(missed / 4)


def test_the_printed_report_names_every_miss_and_the_sheet(report: DemoReport) -> None:
    text = io.StringIO()
    print_report(report, Console(file=text, width=160))
    assert text.getvalue().count("MISS") == sum(j.is_wrong and j.truth == "bad" for j in report.judged)
    assert str(report.sheet) in text.getvalue()
    assert report.sheet.read_bytes().startswith(b"\x89PNG")


def test_a_long_table_keeps_every_wrong_row_and_the_order(report: DemoReport) -> None:
    many = [replace(j) for _ in range(20) for j in report.judged]
    shown = rows_to_show(many)
    wrong = [j for j in many if j.is_wrong]
    assert len(shown) < len(many)
    assert len(shown) >= min(MOST_ROWS, len(wrong))
    assert [j for j in shown if j.is_wrong] == wrong


def test_the_sheet_shows_a_bounded_mix(report: DemoReport) -> None:
    chosen = pick([replace(j) for _ in range(10) for j in report.judged])
    assert 0 < len(chosen) <= SHEET_GOOD + SHEET_BAD
    assert {j.truth for j in chosen} == {"good", "bad"}
