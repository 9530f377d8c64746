"""Prints what a demo found: a table that shows the misses too, and the figures below it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from orchestrator.demo.run import DemoReport, Judged
from orchestrator.patchcore.thresholds import certificate

MOST_ROWS = 48


def print_report(report: DemoReport, console: Console) -> None:
    """Print the table and the summary."""
    shown = rows_to_show(report.judged)
    table = Table(
        "image", "truth", "score", "threshold", "decision", "ms", "defect hit", title_justify="left"
    )
    for judged in shown:
        verdict = judged.verdict
        threshold = "-" if verdict.threshold is None else f"{verdict.threshold:.4f}"
        decision = verdict.decision or "-"
        mark = (
            "  MISS"
            if judged.truth == "bad" and judged.is_wrong
            else "  FALSE REJECT"
            if judged.is_wrong
            else ""
        )
        style = "yellow" if judged.is_wrong else None
        hit = "-" if judged.hit is None else ("yes" if judged.hit else "no")
        table.add_row(
            judged.photograph.name,
            judged.truth,
            f"{verdict.score:.4f}",
            threshold,
            decision + mark,
            f"{verdict.elapsed_ms:.0f}",
            hit,
            style=style,
        )
    console.print(table)
    if len(shown) < len(report.judged):
        console.print(f"... and {len(report.judged) - len(shown)} more, judged right.")
    metadata, rate = report.fit.record.metadata, report.calibration.false_reject
    localisation = "n/a" if report.localisation is None else f"{report.localisation:.1%}"
    lines = [
        f"backbone        {metadata.model_version}",
        f"fitted          {len(metadata.sample_sha256)} good photographs -> {len(report.fit.record.embeddings)} of "
        f"{metadata.n_embeddings} patches, {report.fit_s:.1f} s; calibrated in {report.calibrate_s:.1f} s",
        f"threshold       {report.calibration.threshold:.4f} (false rejects expected {rate.expected:.1%}, "
        f"at most {rate.upper_bound:.1%} with {rate.confidence:.0%} confidence, n = {rate.n_ok})",
        f"certificate     {certificate(rate, report.calibration.max_false_reject_rate, report.calibration.method)}",
        f"image AUROC     {report.auroc:.4f}",
        f"localisation    {localisation} of the drawn defects hold the map's maximum",
        f"false rejects   {report.rates.false_reject:.1%}   escapes {report.rates.escape:.1%}",
        f"inspection      {report.inspect_ms:.0f} ms (median)",
        f"contact sheet   {report.sheet}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def rows_to_show(judged: list[Judged]) -> list[Judged]:
    """Choose the rows: all where they fit, else every wrong one and an even spread of the others, in order."""
    if len(judged) <= MOST_ROWS:
        return judged
    wrong = {id(j) for j in judged if j.is_wrong}
    room = max(0, MOST_ROWS - len(wrong))
    right = [j for j in judged if id(j) not in wrong]
    step = max(1.0, len(right) / max(1, room))
    kept = wrong | {id(right[int(i * step)]) for i in range(min(room, len(right)))}
    return [j for j in judged if id(j) in kept]
