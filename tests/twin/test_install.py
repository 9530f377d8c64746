"""The installation of Triton: once, whole, and safe against a kill or a rival."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.twin.install import install, is_installed
from orchestrator.twin.libpython import find_libpython
from tests.triton_fixtures import ROOT

INSTALL = """
import sys
from pathlib import Path
from orchestrator.twin.install import install
install(Path(sys.argv[1]))
"""


def start_install(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", INSTALL, str(home)], cwd=ROOT, start_new_session=True)


def test_a_second_install_only_looks(triton_home: Path) -> None:
    first = install(triton_home)
    started = time.monotonic()
    assert install(triton_home) == first
    assert time.monotonic() - started < 1.0
    assert os.access(first.server, os.X_OK)
    assert os.access(first.backends / "python" / "triton_python_backend_stub", os.X_OK)


def test_the_libpython_is_this_python_s() -> None:
    found = find_libpython()
    assert found.library.name == f"libpython3.{sys.version_info.minor}.so.1.0"
    assert found.interpreter.is_file()


@pytest.mark.slow
def test_a_killed_install_leaves_nothing_half_done_and_two_rivals_make_one(tmp_path: Path) -> None:
    killed = start_install(tmp_path)
    while not list(tmp_path.glob(".staging-*/server/*")):
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not is_installed(tmp_path)
    rivals = [start_install(tmp_path) for _ in range(2)]
    assert [rival.wait(300) for rival in rivals] == [0, 0]
    assert is_installed(tmp_path)
    assert not list(tmp_path.glob(".staging-*"))
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 1
