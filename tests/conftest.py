"""Fixtures for everyone: settings on an empty data root, and the API in process, over each feature backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.app import create_app
from orchestrator.settings import Settings, load_settings

pytest_plugins = ["tests.triton_fixtures"]

MakeClient = Callable[..., TestClient]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"HOST", "PORT", "ENABLE_METRICS", "PROMETHEUS_MULTIPROC_DIR"}
    for name in os.environ:
        prefixed = name.startswith(("BDI_", "BRAKEDISC_", "BACKEND_", "PATCHCORE_"))
        if (prefixed and name != "BDI_TRITON_HOME") or name in published:
            monkeypatch.delenv(name)


@pytest.fixture(params=["onnxruntime", "triton"])
def feature_backend(request: pytest.FixtureRequest) -> str:
    """Run the test once in process and once against the real Triton."""
    return str(request.param)


@pytest.fixture
def make_settings(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_repository: Path
) -> Callable[..., Settings]:
    """Make settings on this test's data root; over Triton where the test asks for `feature_backend`."""
    served = "feature_backend" in request.fixturenames
    over_triton = served and request.getfixturevalue("feature_backend") == "triton"
    url = request.getfixturevalue("triton").grpc_url if over_triton else None

    def make(**changes: Any) -> Settings:
        chosen = {
            "data_root": tmp_path / "data",
            "model_repository": tiny_repository,
            "backbone": "tiny",
            "min_ok_samples": 4,
            "triton_url": url,
            "request_timeout_s": 20,
            "threads": 1,
        }
        return load_settings(**{**chosen, **changes})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Give settings for the `tiny` backbone on an empty data root."""
    return make_settings()


@pytest.fixture
def make_client(make_settings: Callable[..., Settings]) -> Iterator[MakeClient]:
    """Start the API in process, with changed settings; on the same data root every time."""
    with ExitStack() as running:

        def make(*, extractor: Any = None, **changes: Any) -> TestClient:
            app = create_app(make_settings(**changes), extractor=extractor)
            return running.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    """Start the API in process."""
    return make_client()
