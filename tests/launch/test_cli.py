from __future__ import annotations

import subprocess
import sys

from orchestrator import __version__


def _patchlight(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_version_is_said() -> None:
    assert _patchlight("--version").stdout.strip() == __version__


def test_a_wrong_setting_is_one_sentence_and_exit_code_2() -> None:
    done = _patchlight("doctor", BDI_CORESET_RATE="2")
    assert done.returncode == 2
    assert "coreset_rate" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_an_unknown_folder_of_photographs_is_one_sentence() -> None:
    done = _patchlight("triton", "--repository", "/nowhere")
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
