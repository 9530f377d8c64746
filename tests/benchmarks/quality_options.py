"""The table of ways to make banks: an option is one more entry here, and every figure is measured for it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import build_memory
from tests.benchmarks.quality_subjects import Subject, subject
from tests.benchmarks.servers import Plan


def _coreset(photographs: Sequence[Embedded], rate: float) -> MemoryBank:
    return build_memory(photographs, rate)[0]


def _as_it_is(photograph: Embedded, _: MemoryBank) -> Embedded:
    return photograph


@dataclass(frozen=True, slots=True)
class Option:
    """One way from photographs to scores.

    load: gives a set, by its name and its backbone's, as this option embeds it. build: makes a bank of some of its
    good photographs (their sha256 leads to what else belongs to them) and a coreset rate. view: gives a photograph as
    it is scored against a bank, with the patches that count.
    """

    load: Callable[[Plan, str, str], Subject] = subject
    build: Callable[[Sequence[Embedded], float], MemoryBank] = _coreset
    view: Callable[[Embedded, MemoryBank], Embedded] = _as_it_is


PLAIN = "plain"
OPTIONS: Mapping[str, Option] = {PLAIN: Option()}
