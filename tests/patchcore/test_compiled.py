"""Compiled loops work whatever became of the folder that they are kept in."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
KERNELS = """
import numpy as np
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.patchcore.neighbors import nearest_rows, warm_up
warm_up()
rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
plain, fast = (select_coreset(rows, 0.1, compiled=c).tolist() for c in (False, True))
assert plain == fast
import sys; assert "orchestrator.patchcore.pruned" in sys.modules
"""
DOUBLED = """
from orchestrator.patchcore.compiled import compiled
def doubled(x):
    return 2 * x
doubled = compiled(doubled, "float64(float64)")
"""


def run(script: str, cache: Path, preexec_fn: Callable[[], None] | None = None) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}:{cache.parent}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, preexec_fn=preexec_fn
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(cache: Path, ending: str) -> list[Path]:
    return sorted(cache.rglob(f"*.{ending}"))


CALL = "from loops import doubled; print(doubled(1.5), sum(doubled.stats.cache_hits.values()))"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Give a folder for a cache, beside a module of one compiled function."""
    (tmp_path / "loops.py").write_text(DOUBLED)
    return tmp_path / "cache"


def test_kernels_start_with_an_emptied_index_and_mend_it(cache: Path) -> None:
    run(KERNELS, cache)
    indices = files(cache, "nbi")
    assert len(indices) > 5
    for index in indices:
        index.write_bytes(b"")
    run(KERNELS, cache)
    assert [p.name for p in files(cache, "nbi") if p.stat().st_size == 0] == []


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damaged_files_are_replaced(cache: Path, ending: str) -> None:
    assert run(CALL, cache) == "3.0 0\n"
    (damaged,) = files(cache, ending)
    damaged.write_bytes(b"no pickle")
    assert run(CALL, cache) == "3.0 0\n"
    assert run(CALL, cache) == "3.0 1\n"


def test_a_full_disk_costs_the_cache_alone(cache: Path) -> None:
    def nothing_may_be_written() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    assert run(CALL, cache, preexec_fn=nothing_may_be_written) == "3.0 0\n"
    assert files(cache, "nbc") == []


@pytest.mark.parametrize("locators", ["UserProvidedCacheLocator", "ZipCacheLocator"])
def test_without_a_folder_to_write_to_nothing_is_kept(
    cache: Path, locators: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file where the folder should be: that stops root too.
    cache.write_bytes(b"")
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", locators)
    assert run(CALL, cache) == "3.0 0\n"
