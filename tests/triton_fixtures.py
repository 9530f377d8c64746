"""Fixtures around a real Triton: an exported `tiny` backbone in two versions, and servers that serve it.

`BDI_TRITON_HOME` says where Triton is installed; by default `.triton` in the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from google.protobuf import text_format

from orchestrator.domain.arrays import ImageArray
from orchestrator.features.base import CallContext, Priority
from orchestrator.features.repository import ModelRepository
from orchestrator.twin.process import TritonServer
from orchestrator.twin.repository import read_config
from orchestrator.twin.serving import serve_repository

ROOT = Path(__file__).parent.parent
THREADS = 2
_EXPORT_TWO = """
from export.__main__ import app
for seed in ("0", "1"):
    app(["onnx", "--backbone", "tiny", "--weights", "random", "--seed", seed, "--repository", {repository!r}],
        standalone_mode=False)
"""


def call(
    timeout_s: float = 20.0, *, priority: Priority = Priority.INSPECT, traceparent: str | None = None
) -> CallContext:
    """Make a call's context."""
    return CallContext("test-request", timeout_s, priority, traceparent)


def draw_images(count: int, *, side: int = 112, seed: int = 0) -> ImageArray:
    """Draw (B, side, side, 3) uint8 images, all different."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def copy_repository(source: Path, target: Path, edit: Callable[[Any], None] | None = None) -> Path:
    """Copy a repository with the `tiny` backbone, its config.pbtxt edited."""
    shutil.copytree(source, target)
    if edit is not None:
        config = read_config(target / "tiny")
        edit(config)
        (target / "tiny" / "config.pbtxt").write_text(text_format.MessageToString(config))
    return target


def stubs_of(server: TritonServer) -> list[psutil.Process]:
    """Give the processes that run the graphs."""
    return list(psutil.Process(server.pid).children(recursive=True))


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """Give the folder Triton is installed in."""
    return Path(os.environ.get("BDI_TRITON_HOME", ROOT / ".triton"))


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the `tiny` backbone with two sets of weights: versions 1 and 2. Not to be written to."""
    repository = tmp_path_factory.mktemp("repository")
    script = _EXPORT_TWO.format(repository=str(repository))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return repository


@pytest.fixture(scope="session")
def tiny_models(tiny_repository: Path) -> ModelRepository:
    """Give the reader of `tiny_repository`."""
    return ModelRepository(tiny_repository)


@pytest.fixture(scope="session")
def triton(tiny_repository: Path, triton_home: Path) -> Iterator[TritonServer]:
    """Start one Triton for the whole run; not to be disturbed."""
    with serve_repository(tiny_repository, ["tiny"], triton_home=triton_home, threads=THREADS) as server:
        yield server


@pytest.fixture
def own_triton(tiny_repository: Path, triton_home: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """Start a Triton for one test, to be frozen or killed; serves `tmp_path / "repository"`, a copy."""
    repository = copy_repository(tiny_repository, tmp_path / "repository")
    with serve_repository(repository, ["tiny"], triton_home=triton_home, threads=THREADS) as server:
        yield server
