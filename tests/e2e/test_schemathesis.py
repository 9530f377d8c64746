"""Property-based requests over the served OpenAPI: every route, every check, none excluded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import serving
from tests.gui import Gui, ok
from tests.pictures import good
from tests.triton_fixtures import ROOT

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "12")


@pytest.mark.slow
def test_no_request_finds_a_500_an_undocumented_status_or_a_body_outside_its_model(
    tiny_repository: Path, tmp_path: Path
) -> None:
    with serving(tiny_repository, tmp_path, enable_metrics="true") as server:
        ok(Gui(server, role="0", roi="0").fit(good(3)))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml")),
                *("run", f"{server.url}/openapi.json", "--checks", "all", "--max-examples", EXAMPLES),
                *("--workers", "2", "--seed", "1", "--no-color", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        report = done.stdout + done.stderr
        assert done.returncode == 0, report[-12_000:]
        assert re.search(r"(\d{3,}) generated, \1 passed", report), report[-3_000:]
        assert server.lines("http.failed") == []
