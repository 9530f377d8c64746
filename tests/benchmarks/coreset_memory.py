"""A process that selects from many rows and says what memory and time that took. Arguments: n d count threads."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.patchcore.coreset import select_coreset

_BLOCK = 8192


def draw(n: int, d: int, *, clusters: int, seed: int = 0) -> FloatArray:
    """Draw unit rows around unit centres, in blocks: nothing is held beside the rows themselves."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, d), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows: FloatArray = np.empty((n, d), dtype=np.float32)
    for low in range(0, n, _BLOCK):
        part = rows[low : low + _BLOCK]
        rng.standard_normal(out=part, dtype=np.float32)
        # 0.5 / sqrt(d) a dimension: rows lie about half as far from their centre as it from 0.
        part *= np.float32(0.5 / d**0.5)
        part += centres[rng.integers(0, clusters, len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def main(n: int, d: int, count: int, threads: int) -> None:
    """Select, and print {"seconds", "peak_bytes", "raw_bytes"}."""
    rows = draw(n, d, clusters=40)
    started = time.perf_counter()
    selected = select_coreset(rows, count / n, threads=threads)
    seconds = time.perf_counter() - started
    assert len(selected) == count
    status = Path("/proc/self/status").read_text(encoding="ascii")
    # VmHWM is of this program alone; getrusage's peak would count what the parent held before it.
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    json.dump({"seconds": seconds, "peak_bytes": peak, "raw_bytes": rows.nbytes}, sys.stdout)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
