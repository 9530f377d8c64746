"""What a benchmark writes: rows of figures, as a table and as JSON.

Knows how figures are summarised and described; measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
_PACKAGES = ("numpy", "fastapi", "uvicorn", "uvloop", "tritonclient", "onnxruntime", "torch", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where figures were measured. git: the revision, "+dirty" where the tree had changes, or "unknown"."""

    cpu: str
    cores: int
    versions: dict[str, str]
    git: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one suite.

    ours, peer: medians of the repeats, in `unit`; peer is None where there is none. ratio: ours / peer, the median of
    the repeats' own ratios, because both sides of a repeat saw the same neighbours on the machine. ahead: whether
    ours is the better side. n: samples in one repeat. load: one-minute load averages, one a repeat.
    """

    suite: str
    case: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    peer: float | None
    ratio: float | None
    ahead: bool | None
    repeats: int
    ours_repeats: list[float]
    peer_repeats: list[float]
    n: int
    threads: int
    load: list[float]
    cpu: str
    cores: int
    versions: dict[str, str]
    git: str
    notes: str


@dataclass(slots=True)
class Figures:
    """The repeats of one figure while they are being measured."""

    suite: str
    case: str
    unit: str
    better: Literal["higher", "lower"]
    n: int
    threads: int
    notes: str = ""
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def add(self, ours: float, peer: float | None = None) -> None:
        """Note one repeat and the load it was measured under."""
        self.ours.append(ours)
        if peer is not None:
            self.peer.append(peer)
        self.load.append(round(os.getloadavg()[0], 2))

    def row(self) -> Row:
        """Summarise. At least one repeat, and a peer in all of them or in none."""
        ratio = None
        if self.peer:
            ratio = statistics.median(a / b for a, b in zip(self.ours, self.peer, strict=True))
        return Row(
            suite=self.suite,
            case=self.case,
            unit=self.unit,
            better=self.better,
            ours=statistics.median(self.ours),
            peer=statistics.median(self.peer) if self.peer else None,
            ratio=ratio,
            ahead=None if ratio is None else (ratio > 1 if self.better == "higher" else ratio < 1),
            repeats=len(self.ours),
            ours_repeats=self.ours,
            peer_repeats=self.peer,
            n=self.n,
            threads=self.threads,
            load=self.load,
            **asdict(environment()),
            notes=self.notes,
        )


@cache
def environment() -> Environment:
    """Describe this machine and what is installed on it."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Environment(_cpu(), len(os.sched_getaffinity(0)), versions, _git())


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> Table:
    """Draw the rows for people."""
    drawn = Table("suite", "case", "unit", title="Medians of interleaved repeats")
    for column in ("ours", "peer", "ours/peer", "", "n", "load"):
        drawn.add_column(column, justify="right")
    for row in rows:
        mark = {None: "", True: "[green]ahead[/]", False: "[red]behind[/]"}[row.ahead]
        drawn.add_row(
            row.suite,
            row.case,
            row.unit,
            _figure(row.ours),
            "" if row.peer is None else _figure(row.peer),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            mark,
            f"{row.repeats} × {row.n}",
            f"{statistics.median(row.load):.1f}",
        )
    return drawn


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git() -> str:
    def ask(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return ask("rev-parse", "--short=12", "HEAD") + ("+dirty" if ask("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
