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
_PACKAGES = (
    "numpy",
    "fastapi",
    "uvicorn",
    "uvloop",
    "tritonclient",
    "onnxruntime",
    "torch",
    "scikit-learn",
    "numba",
    "faiss-cpu",
    "scipy",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where figures were measured. git: the revision, "+dirty" where the tree had changes, or "unknown"."""

    cpu: str
    cores: int
    versions: dict[str, str]
    git: str


_SECONDS = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What was computed on. n, d, k: rows, dimensions, and centres, neighbours or folds, where a case has them.

    tokens: whether the rows came from photographs or from a generator. seeds: of whatever was drawn.
    """

    n: int | None = None
    d: int | None = None
    k: int | None = None
    tokens: Literal["real", "synthetic"] | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one suite.

    ours, theirs, floor: medians of the repeats, in `unit`; ours_s, peer_s, floor_s: the same in seconds, None where the
    unit is no time. peer: who theirs is, None where there is nobody. floor: the least that any way of computing it
    costs, such as the bare matrix product. ratio: ours / theirs, the median of the repeats' own ratios, because both
    sides of a repeat saw the same neighbours on the machine, None where theirs is 0; floor_ratio: ours / floor alike.
    ahead: whether ours is the better side, None where theirs is extrapolated too. interval: where ours - theirs lies,
    by resampling, if it was. extrapolated: theirs was measured on a part and scaled; it enters no bar. samples: in one
    repeat. load: one-minute load averages, one a repeat.
    """

    suite: str
    case: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    theirs: float | None
    floor: float | None
    ours_s: float | None
    peer: str | None
    peer_s: float | None
    ratio: float | None
    floor_s: float | None
    floor_ratio: float | None
    ahead: bool | None
    interval: tuple[float, float] | None
    extrapolated: bool
    n: int | None
    d: int | None
    k: int | None
    tokens: Literal["real", "synthetic"] | None
    seeds: tuple[int, ...]
    threads: int
    repeats: int
    samples: int
    ours_repeats: list[float]
    theirs_repeats: list[float]
    floor_repeats: list[float]
    load: list[float]
    cpu: str
    cores: int
    versions: dict[str, str]
    git: str
    notes: str


@dataclass(slots=True)
class Figures:
    """The repeats of one figure while they are being measured. peer_versions: of what the peer ran with, if apart."""

    suite: str
    case: str
    unit: str
    better: Literal["higher", "lower"]
    samples: int
    threads: int
    notes: str = ""
    peer: str | None = None
    shape: Shape = Shape()
    extrapolated: bool = False
    interval: tuple[float, float] | None = None
    peer_versions: dict[str, str] = field(default_factory=dict)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def add(self, ours: float, theirs: float | None = None, *, floor: float | None = None) -> None:
        """Note one repeat and the load it was measured under."""
        self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)
        if floor is not None:
            self.floor.append(floor)
        self.load.append(round(os.getloadavg()[0], 2))

    def row(self) -> Row:
        """Summarise. At least one repeat; a peer and a floor in all of them or in none."""
        ratio, in_seconds = _paired(self.ours, self.theirs), _SECONDS.get(self.unit)
        judged = ratio is not None and not self.extrapolated
        described = environment()

        def seconds(values: list[float]) -> float | None:
            return statistics.median(values) * in_seconds if values and in_seconds is not None else None

        return Row(
            suite=self.suite,
            case=self.case,
            unit=self.unit,
            better=self.better,
            ours=statistics.median(self.ours),
            theirs=statistics.median(self.theirs) if self.theirs else None,
            floor=statistics.median(self.floor) if self.floor else None,
            ours_s=seconds(self.ours),
            peer=self.peer if self.theirs else None,
            peer_s=seconds(self.theirs),
            ratio=ratio,
            floor_s=seconds(self.floor),
            floor_ratio=_paired(self.ours, self.floor),
            ahead=(ratio > 1 if self.better == "higher" else ratio < 1) if judged else None,
            interval=self.interval,
            extrapolated=self.extrapolated,
            **asdict(self.shape),
            threads=self.threads,
            repeats=len(self.ours),
            samples=self.samples,
            ours_repeats=self.ours,
            theirs_repeats=self.theirs,
            floor_repeats=self.floor,
            load=self.load,
            cpu=described.cpu,
            cores=described.cores,
            versions=described.versions | self.peer_versions,
            git=described.git,
            notes=self.notes,
        )


def _paired(ours: Sequence[float], others: Sequence[float]) -> float | None:
    return (
        statistics.median(a / b for a, b in zip(ours, others, strict=True))
        if others and all(others)
        else None
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
    """Draw the rows for people. A peer's figure that was extrapolated is marked with ~."""
    drawn = Table("suite", "case", "unit", title="Medians of interleaved repeats")
    for column in ("ours", "peer", "ours/peer", "", "ours/floor", "n", "load"):
        drawn.add_column(column, justify="right")
    for row in rows:
        mark = {None: "", True: "[green]ahead[/]", False: "[red]behind[/]"}[row.ahead]
        theirs = "" if row.theirs is None else ("~" if row.extrapolated else "") + _figure(row.theirs)
        drawn.add_row(
            row.suite,
            row.case,
            row.unit,
            _figure(row.ours),
            theirs,
            "" if row.ratio is None else _ratio(row.ratio),
            mark,
            "" if row.floor_ratio is None else f"{row.floor_ratio:.2f}",
            f"{row.repeats} × {row.samples}",
            f"{statistics.median(row.load):.1f}",
        )
    return drawn


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"1/{1 / value:.0f}"


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
