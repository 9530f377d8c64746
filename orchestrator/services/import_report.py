"""What an import did, line by line: nothing that was found is passed over in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["sample", "sidecar", "memory", "scale", "folder", "backbone"]
Outcome = Literal["imported", "known", "skipped", "refused", "conflict", "noted"]
"""known: this data root has it already. skipped: left alone by rule. refused: cannot be used as it is.
conflict: contradicts what is stored."""


@dataclass(frozen=True, slots=True)
class ImportLine:
    """One thing that was found, and what happened to it. In a dry run: what would happen."""

    kind: Kind
    outcome: Outcome
    path: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """All lines, in the order of the work: scales, samples, memories."""

    source: Path
    dry_run: bool
    lines: tuple[ImportLine, ...]

    @property
    def counts(self) -> dict[tuple[Kind, Outcome], int]:
        """Count the lines of each kind and outcome; pairs that did not occur are absent."""
        return dict(Counter((line.kind, line.outcome) for line in self.lines))

    def count(self, kind: Kind, outcome: Outcome) -> int:
        """Count the lines of one kind and outcome."""
        return self.counts.get((kind, outcome), 0)


def readable(text: str) -> str:
    """Make a file name printable as UTF-8; bytes that are none are shown escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
