"""`patchlight import-legacy`: brings another generation's data in, with a bar and a line for everything refused."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from orchestrator.runtime import build_legacy_import
from orchestrator.settings import Settings

MOST_LINES = 200


def import_from(
    settings: Settings,
    source: Path,
    recipe: str,
    role: str,
    backbone: str | None,
    console: Console,
    *,
    dry_run: bool,
) -> None:
    """Import and print what happened.

    Raises what `LegacyImport.run` raises.
    """
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("import", total=None)
        report = build_legacy_import(settings).run(
            source,
            recipe_id=recipe,
            role_id=role,
            backbone=backbone,
            dry_run=dry_run,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    telling = [line for line in report.lines if line.outcome not in ("imported", "known")]
    for line in telling[:MOST_LINES]:
        text = f"{line.outcome:<9} {line.kind:<8} {line.path}: {line.sentence}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if len(telling) > MOST_LINES:
        console.print(f"... and {len(telling) - MOST_LINES} more lines")
    found = ", ".join(f"{count} {kind} {outcome}" for (kind, outcome), count in sorted(report.counts.items()))
    console.print(
        f"{'would be: ' if dry_run else ''}{found or 'nothing to import was found'}", highlight=False
    )
