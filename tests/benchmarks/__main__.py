"""`python -m tests.benchmarks`: run suites, print the table, write the rows."""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from tests.benchmarks.rows import ROOT, Row, table, write_json
from tests.benchmarks.servers import Plan
from tests.benchmarks.suites import SUITES

Suite = StrEnum("Suite", list(SUITES))  # type: ignore[misc]  # made from the table, not written twice
app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    suite: Annotated[list[Suite] | None, typer.Option(help="Which to run; all by default.")] = None,
    json: Annotated[Path, typer.Option(help="Where the rows are written.")] = Path("bench/results.json"),
    cache: Annotated[
        Path, typer.Option(help="Keeps the exported backbones; delete it to export anew.")
    ] = Path(".cache/bench"),
    data: Annotated[
        Path, typer.Option(help="Folder of real photographs, one folder a set; may be absent.")
    ] = ROOT.parent / "shared" / "data",
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats of every figure.")] = 3,
    threads: Annotated[int, typer.Option(help="Of Triton's graph and of the peer; 0 is all cores.")] = 0,
) -> None:
    """Run the benchmarks."""
    # As for Ctrl-C, so that every server is ended on the way out.
    signal.signal(signal.SIGTERM, _leave)
    plan = Plan(
        repository=cache / "repository",
        triton_home=Path(os.environ.get("BDI_TRITON_HOME", ROOT / ".triton")),
        threads=threads or len(os.sched_getaffinity(0)),
        repeats=repeats,
        data=data,
    )
    progress, rows = Console(stderr=True), list[Row]()
    for name in suite or list(Suite):
        with progress.status(f"{name}: {repeats} repeats"):
            rows += SUITES[name](plan)
        # After every suite: a later failure loses nothing.
        write_json(rows, json)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table(rows))
    console.print(f"{len(rows)} rows in {json}")


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    app()
