"""`python -m tests.benchmarks.quality_table bench/quality.json`: the suite's figures as Markdown tables.

Knows rows, measures nothing. What differs from the peer is bold where the difference's interval leaves out 0.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.benchmarks.quality_case import CHOSEN, DEPLOYED, FULL, MAP, QualityCase

_ABSENT = "–"
_ERRORS = (f"false reject at {DEPLOYED}", f"escape at {DEPLOYED}")
_Rows = Mapping[QualityCase, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a table: its head, and a row's cell for one set."""

    head: str
    cell: Callable[[_Rows, QualityCase], str]


def read_rows(path: Path) -> dict[QualityCase, dict[str, Any]]:
    """Read the suite's rows of a file that may hold others too."""
    written = json.loads(path.read_text(encoding="utf-8"))
    figures = [row for row in written if row["suite"] == "quality" and "/" in row["case"]]
    return {QualityCase.parse(row["case"]): row for row in figures}


def draw(rows: _Rows) -> str:
    """Draw every table: image AUROC by rule beside the peer, errors at the threshold, the map, few photographs."""
    parts = []
    for title, few, columns in (
        ("Image AUROC, all good photographs", False, _auroc_columns(rows)),
        ("Errors at the deployed threshold: false rejects / escapes, %", False, _error_columns(rows)),
        ("The map: pixel AUROC and AUPRO", False, _map_columns()),
        (
            "Few good photographs, image AUROC: mean ± standard deviation over the seeds",
            True,
            _few_columns(rows),
        ),
    ):
        lines = _table(rows, columns, few=few)
        if lines:
            parts.append("\n".join([f"**{title}**", "", *lines]))
    return "\n\n".join(parts)


def _table(rows: _Rows, columns: Sequence[_Column], *, few: bool) -> list[str]:
    lines = []
    for place in _places(rows, few=few):
        cells = [column.cell(rows, place) for column in columns]
        if any(cell != _ABSENT for cell in cells):
            shots = [f"{place.shots}, {place.rate:.0%}"] if few else []
            options = [] if place.option == "plain" else [place.option]
            lines.append(
                _line([", ".join([place.set_name, *options]), _short(place.backbone), *shots, *cells])
            )
    if not lines:
        return []
    heads = ["Set", "Backbone", *(["Shots, coreset"] if few else []), *(column.head for column in columns)]
    return [_line(heads), _line(["---"] * len(heads)), *lines]


def _places(rows: _Rows, *, few: bool) -> Iterable[QualityCase]:
    """Name the lines: what is left of a case without its rule and figure, the means last."""
    found = dict.fromkeys(replace(case, rule="", figure="") for case in rows if (case.shots == FULL) != few)
    return sorted(found, key=lambda c: (c.backbone, c.option, c.rate, 0 if c.shots == FULL else int(c.shots)))


def _rules(rows: _Rows) -> list[str]:
    return list(dict.fromkeys(case.rule for case in rows if case.rule not in (MAP, CHOSEN)))


def _auroc_columns(rows: _Rows) -> list[_Column]:
    def at(rule: str) -> Callable[[_Rows, QualityCase], str]:
        def cell(rows: _Rows, place: QualityCase) -> str:
            row = rows.get(replace(place, rule=rule, figure="image AUROC"))
            return _ABSENT if row is None else f"{_points(row['ours'])} {_difference(row)}"

        return cell

    return [*(_Column(rule, at(rule)) for rule in [*_rules(rows), CHOSEN]), _Column("anomalib", _peer)]


def _peer(rows: _Rows, place: QualityCase) -> str:
    row = next(
        (r for c, r in rows.items() if replace(c, rule="") == replace(place, figure="image AUROC")), None
    )
    return _ABSENT if row is None else _spread(row["theirs_repeats"])


def _error_columns(rows: _Rows) -> list[_Column]:
    def at(rule: str, side: str) -> Callable[[_Rows, QualityCase], str]:
        def cell(rows: _Rows, place: QualityCase) -> str:
            pair = [rows.get(replace(place, rule=rule, figure=f)) for f in _ERRORS]
            return " / ".join(f"{100 * row[side]:.1f}" for row in pair if row is not None) or _ABSENT

        return cell

    rules = _rules(rows)
    return [*(_Column(rule, at(rule, "ours")) for rule in rules), _Column("anomalib", at(rules[0], "theirs"))]


def _map_columns() -> list[_Column]:
    def at(figure: str, side: str) -> Callable[[_Rows, QualityCase], str]:
        def cell(rows: _Rows, place: QualityCase) -> str:
            row = rows.get(replace(place, rule=MAP, figure=figure))
            return _ABSENT if row is None else _points(row[side])

        return cell

    return [
        _Column(f"{figure}, {name}", at(figure, side))
        for figure in ("pixel AUROC", "AUPRO")
        for name, side in (("ours", "ours"), ("anomalib", "theirs"))
    ]


def _few_columns(rows: _Rows) -> list[_Column]:
    def at(rule: str) -> Callable[[_Rows, QualityCase], str]:
        def cell(rows: _Rows, place: QualityCase) -> str:
            row = rows.get(replace(place, rule=rule, figure="image AUROC"))
            return _ABSENT if row is None else _marked(row, _spread(row["ours_repeats"]))

        return cell

    def overlap(rows: _Rows, place: QualityCase) -> str:
        row = rows.get(replace(place, rule=MAP, figure="AUPRO"))
        return _ABSENT if row is None else _spread(row["ours_repeats"])

    rules = [_Column(rule, at(rule)) for rule in _rules(rows)]
    return [*rules, _Column("anomalib", _peer), _Column("AUPRO", overlap)]


def _difference(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return _marked(
        row, f"({100 * (row['ours'] - row['theirs']):+.1f}; {100 * low:+.1f} to {100 * high:+.1f})"
    )


def _marked(row: Mapping[str, Any], text: str) -> str:
    low, high = row["interval"]
    return f"**{text}**" if low > 0 or high < 0 else text


def _spread(values: Sequence[float]) -> str:
    mean = _points(statistics.mean(values))
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _short(backbone: str) -> str:
    return {"resnet18_tokens": "ResNet-18"}.get(backbone, backbone)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(path: Annotated[Path, typer.Argument(help="Rows that the suite wrote.")]) -> None:
    """Print the tables."""
    typer.echo(draw(read_rows(path)))


if __name__ == "__main__":
    typer.run(main)
