"""Ids, headers, the one error body, authentication, CORS, logs, metrics: what holds for every route."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.errors import FeatureContractBroken
from tests.conftest import MakeClient
from tests.fakes import BrokenExtractor
from tests.gui import Gui, ok, refused
from tests.pictures import good

PROBE = {"Origin": "http://gui", "Access-Control-Request-Method": "POST"}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_every_answer_carries_its_ids(client: TestClient) -> None:
    headers = {"X-Request-Id": "my id 1", "X-Recipe-Id": "Line-4"}
    answers = [
        client.get("/", headers=headers),
        client.get("/nowhere", headers=headers),
        client.put("/fit_ok", headers=headers),
        client.post("/infer", headers=headers),
        client.options("/fit_ok", headers=headers),
        client.options("/fit_ok", headers={**headers, **PROBE}),
        client.get("/docs", headers=headers),
        client.get("/openapi.json", headers=headers),
    ]
    assert [a.status_code for a in answers] == [200, 404, 405, 422, 405, 200, 200, 200]
    for answer in answers:
        assert (answer.headers["x-request-id"], answer.headers["x-recipe-id"]) == ("my id 1", "line-4")
    for answer in answers[:5]:
        assert (answer.json()["request_id"], answer.json()["recipe_id"]) == ("my id 1", "line-4")
    assert answers[2].headers["allow"] == answers[4].headers["allow"] == "POST"


def test_an_unusable_request_id_is_replaced(client: TestClient) -> None:
    for sent in ("a" * 129, "tab\there", "\u00e9".encode("latin-1"), ""):
        made = client.get("/", headers={"X-Request-Id": sent}).headers["x-request-id"]
        assert len(made) == 36
    assert client.get("/", headers={"X-Request-Id": "a" * 128}).headers["x-request-id"] == "a" * 128
    assert client.get("/").headers["x-request-id"] != client.get("/").headers["x-request-id"]


def test_the_recipe_is_the_body_s_then_the_header_s_then_default(client: TestClient) -> None:
    body, header = {"recipe_id": " Body "}, {"X-Recipe-Id": "Header"}
    query = {"role_id": "a", "roi_id": "b"}
    assert client.get("/state", params={**query, **body}, headers=header).json()["recipe_id"] == "body"
    assert client.get("/state", params=query, headers=header).json()["recipe_id"] == "header"
    assert client.get("/state", params={**query, "recipe_id": "  "}).json()["recipe_id"] == "default"
    for wrong, word in (("last", "reserved"), ("LAST", "reserved"), ("a b", "Allowed:"), ("_a", "Allowed:")):
        refused(client.get("/state", params={**query, "recipe_id": wrong}), 400, word)
        refused(client.get("/state", params=query, headers={"X-Recipe-Id": wrong}), 400, word)
    refused(client.get("/state", params={**query, "recipe_id": "a" * 65}), 400, "recipe_id")


def test_ids_have_limits_in_characters_and_bytes(client: TestClient) -> None:
    for role, roi in (("", "a"), ("a" * 65, "a"), ("a", "é" * 43), ("a", "漢" * 29)):
        answer = client.get("/state", params={"role_id": role, "roi_id": roi})
        refused(answer, 422)
    refused(client.get("/state", params={"role_id": "a", "roi_id": "b", "model_key": "漢" * 29}), 422)
    for accepted in ("é" * 42, "漢" * 28, "a" * 64, "..", "/", "nul\x00", "A"):
        ok(client.get("/state", params={"role_id": accepted, "roi_id": accepted, "model_key": accepted}))


def test_ids_are_case_sensitive_and_cannot_climb(client: TestClient) -> None:
    for roi in ("../../x", "A", "a", "a.b", "a/b", "\x00"):
        gui = Gui(client, role="..", roi=roi)
        assert ok(gui.fit(good(1, start=len(roi) * 10 + ord(roi[0]))))["bank_generation"] == 1


def test_a_recipe_never_falls_back_to_another(client: TestClient) -> None:
    ok(Gui(client).fit(good(2)))
    other = Gui(client, **{"X-Recipe-Id": "other"})
    refused(other.infer(good(1)[0]), 400, "memory not fitted")
    assert ok(other.get("/manifest"))["memory"] is False
    assert ok(other.get("/datasets/list"))["classes"] == {}


def test_a_capability_probe_sees_405_and_never_404(client: TestClient) -> None:
    for path in ("/fit_ok", "/calibrate_ng", "/infer", "/predict", "/predict/", "/datasets/ok/upload"):
        refused(client.options(path), 405)


def test_a_refused_preflight_is_a_problem_too(make_client: MakeClient) -> None:
    client = make_client(cors_origins="http://gui, http://other")
    assert client.options("/infer", headers=PROBE).headers["access-control-allow-origin"] == "http://gui"
    refused(client.options("/infer", headers={**PROBE, "Origin": "http://evil"}), 400, "origin", "BDI_CORS")
    exposed = client.get("/", headers={"Origin": "http://gui"}).headers["access-control-expose-headers"]
    assert {"X-Request-Id", "X-Recipe-Id"} <= set(exposed.split(", "))


def test_a_key_is_asked_for_on_every_route_but_the_probes(make_client: MakeClient) -> None:
    client = make_client(api_key="sesám")
    for path in ("/", "/livez", "/readyz", "/health"):
        assert client.get(path).status_code == 200
    for path in ("/docs", "/openapi.json", "/state", "/metrics", "/nowhere", "/train/status"):
        body = refused(client.get(path), 401, "X-API-Key", "Bearer")
        assert body["error_code"] == "unauthorized"
    key = "sesám".encode()
    for headers in (
        {"X-API-Key": key},
        {"Authorization": b"Bearer " + key},
        {"Authorization": b"bearer " + key, "X-API-Key": b"wrong"},
    ):
        assert client.get("/train/status", headers=headers).status_code == 200
    for headers in ({"X-API-Key": b"sesa"}, {"X-API-Key": b""}, {"Authorization": b"Basic " + key}):
        refused(client.get("/train/status", headers=headers), 401)
    assert client.options("/infer", headers=PROBE).status_code == 200


def test_without_a_key_a_start_up_line_says_so(
    make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    make_client()
    assert "auth.off" in {line["event"] for line in lines(capsys.readouterr().out)}
    make_client(api_key="k")
    assert "auth.off" not in {line["event"] for line in lines(capsys.readouterr().out)}


def test_a_500_is_opaque_and_its_trace_is_in_the_log(
    make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (RuntimeError("secret"), FeatureContractBroken("secret fingerprint")):
        client = make_client(extractor=BrokenExtractor(error))
        capsys.readouterr()
        answer = Gui(client, **{"X-Request-Id": "r-9"}).fit(good(2))
        assert "secret" not in json.dumps(refused(answer, 500, "internal error"))
        assert answer.headers["x-request-id"] == "r-9"
        failed = [line for line in lines(capsys.readouterr().out) if line["event"] == "http.failed"]
        assert "secret" in failed[0]["exception"]
        assert failed[0]["request_id"] == "r-9"
    client = make_client(extractor=BrokenExtractor(RuntimeError("secret")), debug=True)
    assert "secret" in Gui(client).fit(good(2)).json()["trace"]


def test_log_lines_are_json_and_name_what_they_are_about(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    gui = Gui(client, **{"X-Request-Id": "r-1"})
    capsys.readouterr()
    ok(gui.fit(good(2), operator_id="ana"))
    refused(gui.infer(b"x"), 400)
    written = {line["event"]: line for line in lines(capsys.readouterr().out)}
    assert {"fit_ok.request", "fit_ok.response", "infer.request", "infer.error"} <= set(written)
    for event in ("fit_ok.request", "fit_ok.response", "infer.error"):
        line = written[event]
        assert {"ts", "level", "pid"} <= set(line)
        ids = [line[k] for k in ("request_id", "recipe_id", "role_id", "roi_id", "model_key")]
        assert ids == ["r-1", "default", "Inspection", "inspection-1", "inspection-1"]
    fitted = written["fit_ok.response"]
    assert (fitted["operator_id"], fitted["n_embeddings"], fitted["level"]) == ("ana", 96, "info")
    assert fitted["elapsed_ms"] > 0
    assert (written["infer.error"]["error_code"], written["infer.error"]["status"]) == ("invalid_image", 400)


def test_metrics_are_served_only_where_they_are_enabled(make_client: MakeClient) -> None:
    refused(make_client().get("/metrics"), 404, "ENABLE_METRICS")
    client = make_client(enable_metrics=True)
    refused(Gui(client).infer(b"x"), 400)
    text = client.get("/metrics").text
    assert 'patchlight_requests_total{method="POST",route="/infer",status="400"} 1.0' in text


def test_only_the_documentation_answers_html(client: TestClient) -> None:
    for path in ("/", "/nowhere", "/docs/oauth2-redirect", "/health", "/train/status"):
        assert "html" not in client.get(path).headers["content-type"]


def test_health_is_503_while_the_feature_model_is_not_ready(make_client: MakeClient) -> None:
    client = make_client(backbone="absent")
    refused(client.get("/health"), 503, "absent", "export")
    assert client.get("/health").headers["retry-after"] == "1"
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert ok(client.get("/train/status"))["model"] is None


@pytest.mark.usefixtures("feature_backend")
def test_health_names_the_model_and_the_fitted_roles(client: TestClient, feature_backend: str) -> None:
    ok(Gui(client, role="Rolé", roi="r/1").fit(good(2)))
    body = ok(client.get("/health"))
    assert (body["status"], body["model"], body["feature_backend"]) == ("ok", "tiny", feature_backend)
    assert body["roles_loaded"] == ["Rolé/r/1"]
    assert body["model_version"].startswith("tiny/2@")
    assert body["uptime_s"] >= 0


def test_an_unwritable_store_is_not_ready(client: TestClient, tmp_path: Any) -> None:
    root = tmp_path / "data"
    assert client.get("/readyz").status_code == 200
    root.rename(tmp_path / "moved")
    root.write_text("a file where the folder was")
    refused(client.get("/readyz"), 503)
    refused(Gui(client).fit(good(2)), 503)


def test_many_files_and_long_fields_are_read(make_client: MakeClient) -> None:
    client = make_client(max_images=1200)
    image = good(1)[0]
    gui = Gui(client)
    many = [("images", (f"{i}.png", image, "image/png")) for i in range(1200)]
    metas = [{"note": "n"}] * 1200
    assert (
        len(ok(gui.post("/datasets/ok/upload", many, metas=[json.dumps(m) for m in metas]))["saved"]) == 1200
    )
    refused(gui.post("/datasets/ok/upload", [*many, many[0]]), 400, "1200", "files")
    long = {"note": "x" * 3_000_000}
    ok(gui.upload("ng", [image], [long]))
