"""The OpenAPI document: the committed one is the served one, and every body is closed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.app import create_app
from orchestrator.settings import Settings
from tests.triton_fixtures import ROOT

# A sidecar's keys are the client's; everything else says what it holds.
OPEN = {"SampleMetaResponse"}
BINARY = {("/datasets/file", "get"), ("/explain", "post"), ("/metrics", "get")}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Give the document as served."""
    return create_app(Settings.model_construct()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(p, m, o) for p, item in document["paths"].items() for m, o in item.items()]


def test_the_committed_document_is_the_one_that_is_served(document: dict[str, Any]) -> None:
    committed = json.loads((ROOT / "openapi.json").read_text())
    assert committed == json.loads(json.dumps(document)), "run: patchlight openapi --output openapi.json"


def test_every_answer_has_a_closed_model_with_required_fields(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if (path, method) in BINARY and status == "200":
                continue
            ((media, content),) = response["content"].items()
            assert media == ("application/json" if status < "400" else "application/problem+json")
            name = content["schema"]["$ref"].rsplit("/", 1)[-1]
            assert schemas[name]["required"], name
            assert schemas[name]["additionalProperties"] is (name in OPEN), (path, status, name)


def test_nested_bodies_are_closed_too(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    requests = {n for n in schemas if n.startswith("Body_") or n.endswith("Request")}
    for name in schemas.keys() - requests - OPEN:
        assert schemas[name]["additionalProperties"] is False, name
        assert schemas[name]["required"], name


def test_every_route_of_the_contract_is_there(document: dict[str, Any]) -> None:
    assert {(m.upper(), p) for p, m, _ in operations(document)} >= {
        ("GET", "/"), ("GET", "/health"), ("GET", "/train/status"), ("POST", "/fit_ok"), ("POST", "/send_ng"),
        ("POST", "/calibrate_ng"), ("POST", "/calibrate_dataset"), ("POST", "/infer"),
        ("POST", "/infer_dataset"), ("POST", "/explain"), ("POST", "/predict"), ("POST", "/predict/batch"),
        ("POST", "/predict/zip"), ("GET", "/manifest"), ("GET", "/manifests/{role_id}/{roi_id}"),
        ("GET", "/state"), ("POST", "/datasets/ok/upload"), ("POST", "/datasets/ng/upload"),
        ("GET", "/datasets/list"), ("GET", "/datasets/file"), ("DELETE", "/datasets/file"),
        ("GET", "/datasets/meta"), ("DELETE", "/datasets/clear"), ("GET", "/metrics"), ("GET", "/livez"),
        ("GET", "/drift"), ("POST", "/drift/reset"),
        ("GET", "/readyz"),
    }  # fmt: skip


def test_later_releases_fields_are_not_promised(document: dict[str, Any]) -> None:
    text = json.dumps(document["components"]["schemas"])
    assert '"toolkit_id"' not in text


@pytest.mark.parametrize(("light", "url"), [("1", ""), ("1", "127.0.0.1:9"), ("0", "127.0.0.1:9")])
def test_a_light_import_leaves_the_adapters_and_numba_out(tmp_path: Any, light: str, url: str) -> None:
    script = """
import sys
from starlette.testclient import TestClient
from orchestrator.app import create_app
with TestClient(create_app()) as client:
    assert client.get("/train/status").status_code == 200
    assert client.get("/livez").status_code == 200
heavy = {"onnxruntime", "grpc", "tritonclient", "torch", "numba", "llvmlite", "faiss"}
print(sorted(heavy & set(sys.modules)))
"""
    environment = {"BDI_LIGHT_IMPORT": light, "BDI_TRITON_URL": url, "BDI_DATA_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PATH": "", **environment},
    )
    loaded = done.stdout.splitlines()[-1]
    adapter = ["grpc", "tritonclient"] if url else ["onnxruntime"]
    assert loaded == str([] if light == "1" else sorted([*adapter, "llvmlite", "numba"]))
