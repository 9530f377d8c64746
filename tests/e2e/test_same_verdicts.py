"""Triton and the in-process extractor judge alike: fitted, calibrated and asked the same way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.app import create_app
from orchestrator.settings import Settings
from orchestrator.twin.process import TritonServer
from tests.gui import Gui, ok
from tests.pictures import bad, good

SHAPES = [None, {"kind": "annulus", "cx": 64, "cy": 48, "r": 44, "r_inner": 10}]


def judge(client: TestClient) -> list[dict[str, Any]]:
    gui = Gui(client)
    ok(gui.fit(good(8)))
    ok(gui.upload("ng", bad(3)))
    ok(gui.json("/calibrate_dataset"))
    return [
        ok(gui.infer(image, shape=json.dumps(shape) if shape else None))
        for image in [*good(4, start=500), *bad(4, start=2000)]
        for shape in SHAPES
    ]


def test_both_extractors_give_the_same_verdicts(
    make_settings: Callable[..., Settings], triton: TritonServer, tmp_path: Path
) -> None:
    answers = []
    for name, url in (("in-process", None), ("triton", triton.grpc_url)):
        with TestClient(create_app(make_settings(data_root=tmp_path / name, triton_url=url))) as client:
            answers.append(judge(client))
    for here, there in zip(*answers, strict=True):
        assert there["score"] == pytest.approx(here["score"], rel=1e-3, abs=1e-4)
        assert there["threshold"] == pytest.approx(here["threshold"], rel=1e-3, abs=1e-4)
        assert there["decision"] == here["decision"]
    assert {a["decision"] for a in answers[0]} == {"ok", "ng"}
