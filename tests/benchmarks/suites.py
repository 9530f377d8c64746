"""The table of suites: a new one is a module with `run` and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.benchmarks import calibration, coreset, drift, incremental, naive, overhead, quality, search
from tests.benchmarks.rows import Row
from tests.benchmarks.servers import Plan

SUITES: Mapping[str, Callable[[Plan], list[Row]]] = {
    "overhead": overhead.run,
    "naive": naive.run,
    "drift": drift.run,
    "coreset": coreset.run,
    "quality": quality.run,
    "search": search.run,
    "calibration": calibration.run,
    "incremental": incremental.run,
}
